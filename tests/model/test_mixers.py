"""Registering a mixer; blocks are tested in test_hybrid.py and with the example rule, built-in mixers on their own."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from tests.programs import start
from torch import nn

from lmsleep import FastWeights, HybridLM, Session, read_windows
from lmsleep.memory import KV
from lmsleep.model import HybridConfig, PassContext, check_mixer, mixers, register_mixer
from lmsleep.model.attention import Attention
from lmsleep.model.gated_delta import GatedDelta
from lmsleep.model.mixers import MIXERS
from lmsleep.pretrained import load_pretrained

CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA")])


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    monkeypatch.setattr(mixers, "MIXERS", dict(mixers.MIXERS))


class Mine(GatedDelta):
    pass


def test_the_last_registration_of_a_letter_counts():
    class Other(Mine):
        pass

    register_mixer("Z", "mine", Mine)
    with pytest.warns(UserWarning, match=r"^the letter Z of .*test_mixers\.Mine is now that of .*Other$"):
        register_mixer("Z", "mine", Other)
    for factory in (Mine, Other):
        with warnings.catch_warnings(action="ignore"):
            register_mixer("Z", "mine", factory)
        model = HybridConfig(vocab_size=3, window_size=4, d_model=8, n_heads=2, pattern="AZ").build()
        assert type(model.blocks.layers[1].mixer) is factory
    with pytest.raises(ValueError, match=r"^pattern must be made of .*Z \(mine\), or letters that .*, got 'AX'$"):
        HybridConfig(pattern="AX")


@pytest.mark.parametrize(
    ("letter", "sentence"),
    [
        ("h", "letter must be one upper-case letter, got 'h'"),
        ("HH", "letter must be one upper-case letter, got 'HH'"),
        ("", "letter must be one upper-case letter, got ''"),
        ("É", "letter must be one upper-case letter, got 'É'"),
        ("G", "letter must not be one of the built-in A, G, J, M, W, got 'G'"),
    ],
)
def test_a_letter_that_cannot_be_had_is_refused(letter, sentence):
    before = dict(mixers.MIXERS)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        register_mixer(letter, "mine", Mine)
    assert before == mixers.MIXERS


def test_sizes_of_a_registered_mixer_are_checked():
    register_mixer("Z", "mine", Mine)
    with pytest.raises(ValueError, match=r"^fast_heads must divide d_model=16 unless fast_key_dim is given, got 3$"):
        HybridConfig(d_model=16, pattern="AZ", fast_heads=3)


@pytest.mark.parametrize("letter", sorted(mixers.BUILT_IN))
def test_a_mixer_keeps_nothing_that_is_not_asked_for(build, letter):
    """And gives the same without."""
    model = build(letter, sliding_window=4)
    mixer, S, cache = model.blocks.layers[0].mixer, model.init_fast_weights(2), model.init_cache()
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = S[0] if S.states else None
    keeps, leaves = (mixer(x, state, None, model.blocks.context(x, cache, use_cache=use)) for use in (True, False))
    assert keeps[2] is not None and leaves[2] is None
    torch.testing.assert_close(leaves[0], keeps[0])
    torch.testing.assert_close(leaves[1], keeps[1])


def test_a_file_that_is_imported_again_registers_its_letter_again():
    with warnings.catch_warnings(action="error"):
        for _ in range(2):
            register_mixer("Z", "mine", type("Mine", (GatedDelta,), {"__module__": "a_file"}))


def test_a_script_that_a_module_of_its_run_imports_registers_its_letter_again(tmp_path):
    (tmp_path / "rules.py").write_text(
        "import warnings\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "from lmsleep.model import register_mixer\n"
        "class Mine: ...\n"
        "register_mixer('Z', 'mine', Mine)\n"
        "if __name__ == '__main__':\n"
        "    import rules\n"
    )
    env, said = os.environ | {"PYTHONPATH": str(tmp_path)}, tmp_path / "said"
    script = start("rules", folder=tmp_path, env=env, output=str(said))
    script.join(60)
    assert (script.exitcode, said.read_text()) == (0, "")


def test_what_makes_no_mixer_is_not_registered():
    with pytest.raises(ValueError, match=r"^factory must be a function, got 3$"):
        register_mixer("Z", "mine", 3)


SMALL = {"d_model": 16, "n_heads": 2, "fast_key_dim": 6, "fast_value_dim": 12}
RULES = {letter: MIXERS[letter][1] for letter in "GMJ"}


@pytest.mark.parametrize("change", [{}, {"delta": True}, {"allow_neg_eigval": True}, {"conv_size": 1}], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_every_built_in_rule_keeps_the_contract(rule, change):
    check_mixer(RULES[rule], HybridConfig(**SMALL, **change))


class Sum(nn.Module):
    """S adds up the tokens; it is read by a product with each: the smallest rule."""

    state_shape = (16,)

    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x, state, cache, ctx):
        added = self.layer(x).to(state.dtype)
        if ctx.mask is not None:
            added = added * ctx.mask[..., None]
        states = state[:, None] + added.cumsum(dim=1)
        return (x * states).to(x.dtype), states[:, -1], None

    def flops_per_token(self, window_size):
        return 32


def broken(change):
    """`Sum` with `change(rule, x, state, ctx, y, after)` in place of its output."""

    class Broken(Sum):
        def forward(self, x, state, cache, ctx):
            return *change(self, x, state, ctx, *super().forward(x, state, cache, ctx)[:2]), None

    return Broken


def forgets_its_mask(rule, x, state, ctx, y, after):
    return Sum.forward(rule, x, state, None, PassContext(ctx.rotary))[:2]


BROKEN = {
    r"the new state of Broken must be torch\.float64 of shape \(2, 16\), got torch\.float64 of shape \(2, 1\)": (
        lambda rule, x, state, ctx, y, after: (y, after if after.dtype == torch.float32 else after[:, :1])
    ),
    r"the new state of Broken under autocast must be torch\.float32 of .*, got torch\.float16": (
        lambda rule, x, state, ctx, y, after: (y, after.half())
    ),
    r"the new state of Broken under autocast must be .*, got NoneType": lambda rule, x, state, ctx, y, after: (y, None),
    r"y must be .*, got torch\.float64 of shape \(2, 23": lambda rule, x, state, ctx, y, after: (y[:, :-1], after),
    "the mixer must leave its inputs as they were": (
        lambda rule, x, state, ctx, y, after: (y, after, state.add_(1))[:2]
    ),
    "y of a row must not depend on other rows": (
        lambda rule, x, state, ctx, y, after: (y + y.mean(dim=0, keepdim=True), after)
    ),
    "the new state of a row must not depend on other rows": (
        lambda rule, x, state, ctx, y, after: (y, after + after.mean(dim=0, keepdim=True))
    ),
    "y of a token must not depend on later ones": (
        lambda rule, x, state, ctx, y, after: (y + x.mean(dim=1, keepdim=True), after)
    ),
    "reading 1 tokens in turn must equal reading all at once, got a difference of": (
        lambda rule, x, state, ctx, y, after: (y, after + 1 / x.shape[1])
    ),
    "a masked token must leave no trace in other tokens": forgets_its_mask,
    r"the rule must compute in state\.dtype, which is float64 here, got '.* float": (
        lambda rule, x, state, ctx, y, after: (y, after + 0 * (x.float().sum(1) @ x.new_ones(16, 16)))
    ),
    "y must have a gradient with respect to the state, got None": (
        lambda rule, x, state, ctx, y, after: Sum.forward(rule, x, state.detach(), None, ctx)[:2]
    ),
    "the new state must have a gradient with respect to some weight, got None": (
        lambda rule, x, state, ctx, y, after: (y, after.detach() + 0 * state)
    ),
}


def test_the_smallest_rule_keeps_the_contract():
    check_mixer(Sum, HybridConfig(**SMALL))


def test_a_rule_with_dropout_keeps_the_contract():
    """Which is held to it as it is evaluated."""
    dropping = broken(lambda rule, x, state, ctx, y, after: (nn.functional.dropout(y, 0.5, rule.training), after))
    check_mixer(dropping, HybridConfig(**SMALL))


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_rule_that_breaks_the_contract_is_told_where(sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check_mixer(broken(BROKEN[sentence]), HybridConfig(**SMALL))


@pytest.mark.parametrize("change", [{}, {"n_kv_heads": 1}, {"qk_norm": True}, {"attention_gate": True}], ids=str)
def test_the_built_in_attention_keeps_the_contract(change):
    check_mixer(Attention, HybridConfig(**SMALL, **change))


class OneHead(nn.Module):
    """Attention of one head without positions, whose parts can be broken."""

    state_shape, broken = None, ""

    def __init__(self, config):
        super().__init__()
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)

    def forward(self, x, state, cache, ctx):
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        if cache and ctx.cache_slot is not None and "slot" not in self.broken:
            keys, values = (a.index_copy(2, ctx.cache_slot, b) for a, b in zip(cache, (k, v), strict=True))
        else:
            keys, values = (torch.cat([a, b], dim=2) for a, b in zip(cache, (k, v), strict=True)) if cache else (k, v)
        n, m = k.shape[2], keys.shape[2]
        every = torch.ones(n, m, dtype=torch.bool, device=x.device)
        visible = every.tril(m - n) if ctx.visible is None or "visible" in self.broken else ctx.visible
        if self.broken == "causal":
            visible = every
        if self.broken == "rows":
            return x + x.mean(dim=0, keepdim=True), None, KV(keys, values)
        if self.broken == "cache":
            return x * v.mean(dim=(1, 2, 3))[:, None, None], None, KV(k, v)
        y = ((q @ keys.mT).masked_fill(~visible, -1e9).softmax(-1) @ values)[:, 0]
        return y, x if self.broken == "state" else None, KV(keys, values)

    def flops_per_token(self, window_size):
        return 0


def test_an_attention_of_one_s_own_keeps_the_contract():
    check_mixer(OneHead, HybridConfig(**SMALL))


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("causal", "y of a token must not depend on later ones, got a difference"),
        ("rows", "y of a row must not depend on other rows, got a difference"),
        ("visible", "what ctx.visible hides must leave no trace in other tokens, got a difference"),
        ("slot", "a token must write its key and value into slot ctx.cache_slot of the cache entry and return that"),
        ("state", "the new state of Broken, which has no state_shape, must be None, got Tensor"),
        ("cache", "y of a token must not depend on later ones, got a difference"),
    ],
)
def test_an_attention_that_breaks_the_contract_is_told_where(broken, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check_mixer(type("Broken", (OneHead,), {"broken": broken}), HybridConfig(**SMALL))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_an_attention_of_one_s_own_decodes_in_static_buffers_or_is_refused(device):
    """Its cache entry is a new one at every token; on a CUDA device the step is a graph."""
    register_mixer("Z", "one head", OneHead)
    config = HybridConfig(vocab_size=3, window_size=4, pattern="ZG", zero_init=False, **SMALL)
    model, tokens = config.build().to(device), torch.randint(3, (2, 7), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(device)
    session = Session(model, n_passes=2, static=True)
    got = torch.cat([session.feed(token) for token in tokens.split(1, dim=1)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(got, read_windows(model, tokens, n_passes=2).logits, rtol=1e-4, atol=1e-5)
    model.blocks.layers[0].mixer.broken = "slot, visible"
    with pytest.raises(ValueError, match=r"^static must be False for a mixer whose cache entry grows"):
        Session(model, n_passes=2, static=True).feed(tokens[:, :1])


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("state_shape", 16, r"state_shape of the mixer Z \(sum\) must be one tuple of integers .*, got 16"),
        ("state_shape", ((4,), (4,)), r"state_shape of .* got \(\(4,\), \(4,\)\)"),
        ("flops_per_token", None, r"the mixer Z \(sum\) must have flops_per_token\(window_size\), got 'Odd'"),
    ],
)
def test_a_mixer_without_a_part_of_the_interface_is_not_built(name, value, sentence):
    register_mixer("Z", "sum", type("Odd", (Sum,), {name: value}))
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        HybridConfig(vocab_size=3, window_size=4, pattern="AZ", **SMALL).flops_per_token()


STATE = r"the new state of Left must be torch\.float32 of shape \(2, 16\), got "


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        (lambda y, S: (y, S), "Left must return y, the new state and the new cache entry, got Tensor, Tensor"),
        (lambda y, S: y, "Left must return y, the new state and the new cache entry, got Tensor"),
        (lambda y, S: (y, S[:, :1], None), rf"{STATE}torch\.float32 of shape \(2, 1\)"),
        (lambda y, S: (y, S.half(), None), rf"{STATE}torch\.float16 of shape \(2, 16\)"),
        (lambda y, S: (y, None, None), f"{STATE}NoneType"),
        (lambda y, S: (y, S, S), "the cache entry of Left must be a ConvTail, a KV or None, got Tensor"),
    ],
)
def test_a_rule_that_leaves_something_else_is_named_by_its_model_and_by_its_check(left, sentence):
    """In the first pass: what is left would be taken for something else in the next, or by a session."""
    rule = type("Left", (Sum,), {"forward": lambda self, *given: left(*Sum.forward(self, *given)[:2])})
    with warnings.catch_warnings(action="ignore"):
        register_mixer("Z", "left", rule)
    config = HybridConfig(vocab_size=3, window_size=4, pattern="AZ", **SMALL)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        read_windows(config.build(), torch.zeros(2, 9, dtype=torch.long), n_passes=2)
    with pytest.raises(ValueError, match=f"^{sentence.replace(' must be torch', ' under autocast must be torch')}$"):
        check_mixer(rule, config)


class Decaying(Sum):
    """`Sum` whose state is multiplied by `decay` at the start of a window, with options of each kind."""

    def __init__(self, config, *, decay: float = 0.5, taps: tuple[int, ...] = (), kind="plain"):
        super().__init__(config)
        self.decay, self.taps, self.kind = decay, taps, kind

    def forward(self, x, state, cache, ctx):
        return super().forward(x, self.decay * state, cache, ctx)


OPTIONED = {"vocab_size": 3, "window_size": 4, "pattern": "AZ", **SMALL}


def options_of(config):
    mixer = config.build().blocks.layers[1].mixer
    return mixer.decay, mixer.taps, mixer.kind


def test_a_mixer_takes_options_from_the_configuration_in_the_types_that_it_declares():
    register_mixer("Z", "decaying", Decaying)
    assert options_of(HybridConfig(**OPTIONED)) == (0.5, (), "plain")
    given = {"Z": {"decay": 1, "taps": [1, 2], "kind": [3]}}
    decay, taps, kind = options_of(HybridConfig(**OPTIONED, rule_options=given))
    assert (decay, type(decay), taps, kind) == (1.0, float, (1, 2), [3])


def test_options_are_the_same_before_and_after_they_are_saved(tmp_path):
    register_mixer("Z", "decaying", Decaying)
    options = {"Z": {"decay": 1.0, "taps": (1, 2)}}
    config = HybridConfig(**OPTIONED, rule_options=options)
    options["Z"]["decay"] = 2.0  # the configuration has a copy
    config.build().save_pretrained(tmp_path)
    assert HybridLM.from_pretrained(tmp_path).config == config
    assert config.rule_options == {"Z": {"decay": 1.0, "taps": [1, 2]}}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"Z": {"decai": 1.0}}, r"rule_options of Z \(decaying\) must be among decay, taps, kind, got 'decai'"),
        ({"Z": {"decay": "x"}}, r"decay in rule_options of Z \(decaying\) must be a finite number, got 'x'"),
        ({"Z": {"taps": [1.5]}}, r"item 0 of taps in rule_options of Z \(decaying\) must be an integer, got 1\.5"),
        ({"A": {"bias": True}}, r"rule_options of A \(attention\) must be among none, as it has no option, got 'bias'"),
        ({"G": {"decay": 1.0}}, "rule_options must be by letters of the pattern 'AZ', got 'G'"),
        ({"Z": 3}, "Z in rule_options must be an object, got 3"),
        ({"Z": {"kind": {1}}}, r"rule_options must be what JSON can hold, got \{'Z': \{'kind': \{1\}\}\}"),
        ([3], r"rule_options must be an object, got \[3\]"),
    ],
)
def test_an_option_that_no_mixer_has_is_one_sentence(given, sentence):
    register_mixer("Z", "decaying", Decaying)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        HybridConfig(**OPTIONED, rule_options=given)


def test_an_option_without_default_must_be_given():
    class Needy(Decaying):
        def __init__(self, config, *, decay: float):
            super().__init__(config, decay=decay)

    register_mixer("Z", "needy", Needy)
    with pytest.raises(ValueError, match=r"^rule_options of Z \(needy\) must set decay, got 'nothing'$"):
        HybridConfig(**OPTIONED)
    assert options_of(HybridConfig(**OPTIONED, rule_options={"Z": {"decay": 0.25}}))[0] == 0.25


def test_options_are_saved_with_the_model_and_loaded_again(tmp_path):
    register_mixer("Z", "decaying", Decaying)
    model = HybridConfig(**OPTIONED, rule_options={"Z": {"decay": 0.25, "taps": (1, 2)}}).build()
    model.save_pretrained(tmp_path)
    loaded = HybridLM.from_pretrained(tmp_path)
    assert options_of(loaded.config) == (0.25, (1, 2), "plain")
    tokens = torch.tensor([[0, 1, 2, 1]])
    S = FastWeights((torch.ones(1, 16),))
    assert torch.equal(loaded(tokens, S)[0], model.eval()(tokens, S)[0])


def test_options_of_inserted_mixers_are_free_and_those_of_stored_ones_are_not(tmp_path):
    register_mixer("Z", "decaying", Decaying)
    register_mixer("Y", "also decaying", Decaying)
    options = {"Z": {"decay": 0.25}}
    HybridConfig(**OPTIONED, rule_options=options).build().save_pretrained(tmp_path)
    model = load_pretrained(tmp_path, 4, pattern="AyZ", rule_options=options | {"Y": {"decay": 0.75}})
    assert [model.blocks.layers[i].mixer.decay for i in (1, 2)] == [0.75, 0.25]
    with pytest.raises(ValueError, match=r"^rule_options of the model must be \{'Z': \{'decay': 0\.25\}\} as in"):
        load_pretrained(tmp_path, 4, rule_options={"Z": {"decay": 0.75}})


def test_a_letter_of_an_installed_plugin_is_known_to_every_program(tmp_path):
    """As pip leaves it: a module, and its name in entry_points.txt beside it."""
    told = tmp_path / "my_rule-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rule\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[lmsleep.plugins]\nmine = my_rule\n")
    lines = [
        "from lmsleep.model import register_mixer",
        "from lmsleep.model.gated_delta import GatedDelta",
        "from lmsleep.pretrained import register_backbone",
        "from lmsleep.pretrained.llama import LLAMAS",
        "register_mixer('H', 'mine', GatedDelta)",
        "register_backbone('mistral', LLAMAS['llama'])",
    ]
    (tmp_path / "my_rule.py").write_text("\n".join(lines))
    code = "from lmsleep import HybridConfig; print(HybridConfig(pattern='AH').pattern)"
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "AH\n", done.stderr
    with pytest.raises(ValueError, match=r"^pattern must be made of"):  # where it is not installed
        HybridConfig(pattern="AH")
