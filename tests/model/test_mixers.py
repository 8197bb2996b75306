"""Registering a mixer; blocks are tested in test_hybrid.py and with the example rule, built-in mixers on their own."""

import pytest
import torch

from lmsleep.model import HybridConfig, hybrid, register_mixer
from lmsleep.model.gated_delta import GatedDelta


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    monkeypatch.setattr(hybrid, "MIXERS", dict(hybrid.MIXERS))


class Mine(GatedDelta):
    pass


def test_the_last_registration_of_a_letter_counts():
    class Other(Mine):
        pass

    for factory in (Mine, Other):
        register_mixer("Z", "mine", factory)
        model = HybridConfig(vocab_size=3, window_size=4, d_model=8, n_heads=2, pattern="AZ").build()
        assert type(model.blocks.layers[1].mixer) is factory
    with pytest.raises(ValueError, match=r"^pattern must be made of .*Z \(mine\), got 'AX'$"):
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
    before = dict(hybrid.MIXERS)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        register_mixer(letter, "mine", Mine)
    assert before == hybrid.MIXERS


def test_sizes_of_a_registered_mixer_are_checked():
    register_mixer("Z", "mine", Mine)
    with pytest.raises(ValueError, match=r"^fast_heads must divide d_model=16 unless fast_key_dim is given, got 3$"):
        HybridConfig(d_model=16, pattern="AZ", fast_heads=3)


@pytest.mark.parametrize("letter", sorted(hybrid.BUILT_IN))
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
