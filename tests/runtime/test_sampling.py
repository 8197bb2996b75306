"""Generation against a naive loop that reads the whole sequence again for every token."""

import pytest
import torch

from lmsleep import Session, read_windows
from lmsleep.runtime.sampling import nucleus, sampler


def greedy_by_hand(model, tokens, n_new, n_passes, eviction):
    with torch.no_grad():
        for _ in range(n_new):
            logits = read_windows(model, tokens, n_passes=n_passes, eviction=eviction).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    return tokens[:, -n_new:]


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("static", [False, True])
def test_greedy_generation_across_windows(build, draw_tokens, eviction, static):
    model, prompt = build("AGAG"), draw_tokens(3, 4)
    session = Session(model, n_passes=3, eviction=eviction, static=static)
    new = session.generate(prompt, 11, temperature=0)
    assert torch.equal(new, greedy_by_hand(model, prompt, 11, 3, eviction))
    fed = Session(model, n_passes=3, eviction=eviction)
    fed.feed(torch.cat([prompt, new], dim=1))
    torch.testing.assert_close(session.feed([[1]] * 3), fed.feed([[1]] * 3), rtol=1e-9, atol=1e-12)


def test_prompts_of_different_length(build, draw_tokens):
    model, rows = build("AG"), draw_tokens(3, 9).tolist()
    prompts = [rows[0][:2], rows[1][:9], rows[2][:5]]
    together = Session(model, n_passes=2).generate(prompts, 8, temperature=0)
    for row, prompt in zip(together, prompts, strict=True):
        assert torch.equal(row, greedy_by_hand(model, torch.tensor([prompt]), 8, 2, "hard")[0])


def test_a_row_that_stops_reads_no_further(build, draw_tokens):
    model, prompt = build("AG"), draw_tokens(4, 5)
    free = Session(model, n_passes=2).generate(prompt, 9, temperature=0)
    stop = int(free[0, 2])
    session = Session(model, n_passes=2)
    new = session.generate(prompt, 9, temperature=0, stop=stop)
    for row, (got, wanted) in enumerate(zip(new, free, strict=True)):
        said = wanted.tolist()
        n = said.index(stop) + 1 if stop in said else len(said)
        assert got.tolist() == said[:n] + [stop] * (new.shape[1] - n)
        alone = Session(model, n_passes=2)
        alone.feed(torch.cat([prompt[row], wanted[:n]])[None])
        torch.testing.assert_close(session.fast_weights[0][row], alone.fast_weights[0][0], rtol=1e-9, atol=1e-12)


def test_same_seed_same_tokens(build, draw_tokens):
    def draw(seed):
        return Session(build()).generate(draw_tokens(2, 3), 20, seed=seed)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, [0.5, 0.3, 0.15, 0.05]), (0.6, [0.5, 0.3, 0, 0]), (0.5, [0.5, 0, 0, 0]), (1e-6, [0.5, 0, 0, 0])],
)
def test_nucleus_keeps_the_smallest_set_that_holds_top_p(top_p, kept):
    order = [2, 0, 3, 1]
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])[order]
    got = nucleus(probabilities.log()[None], temperature=1.0, top_p=top_p)
    torch.testing.assert_close(got, torch.tensor(kept)[order][None])


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (4, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (9, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (1, 1.0, [1, 0, 0, 0]),
        (3, 0.8, [50 / 95, 30 / 95, 0, 0]),  # the first two hold 80 of the 95 that the first three hold
        (3, 0.85, [50 / 95, 30 / 95, 15 / 95, 0]),
    ],
)
def test_nucleus_is_taken_of_the_top_k(top_k, top_p, kept):
    order = [2, 0, 3, 1]
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])[order]
    got = nucleus(probabilities.log()[None], temperature=1.0, top_p=top_p, top_k=top_k)
    torch.testing.assert_close(got, torch.tensor(kept, dtype=torch.float32)[order][None])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature):
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    draws = sampler(temperature, 1.0, 0, "cpu")(logits.expand(100_000, 4))
    wanted = (logits / temperature).exp() / (logits / temperature).exp().sum()
    # Four standard deviations of a proportion over 100,000 draws.
    assert ((draws.bincount(minlength=4) / 100_000 - wanted).abs() < 4 * (wanted * (1 - wanted) / 100_000).sqrt()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be 1 or more, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be an integer, got 2.5"),
        ({"stop": 7}, "stop must be at most 6, got 7"),
        ({"stop": -1}, "stop must be 0 or more, got -1"),
        ({"stop": 2.5}, "stop must be an integer, got 2.5"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"seed": 2**64}, "seed must be at most 18446744073709551615, got 18446744073709551616"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"temperature": float("inf")}, "temperature must be 0 or more and finite, got inf"),
        ({"temperature": -1.0}, "temperature must be 0 or more and finite, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be 0 or more and finite, got nan"),
        ({"temperature": 10**60}, "temperature must be 0 or more and finite, got 1000"),
        ({"temperature": "hot"}, "temperature must be a finite number, got 'hot'"),
        ({"temperature": None}, "temperature must be a finite number, got None"),
        ({"top_k": 0}, "top_k must be 1 or more, got 0"),
        ({"top_k": 2.0}, "top_k must be an integer, got 2.0"),
        ({"top_p": True}, "top_p must be a finite number, got True"),
        ({"stop": [1, 7]}, "stop must be at most 6, got 7"),
        ({"stop": [1, None]}, "stop must be an integer, got None"),
        ({"stop": torch.tensor(7)}, "stop must be at most 6, got 7"),
        ({"prompt": [7]}, "tokens must lie in the vocabulary 0..6, got 7"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"prompt": [[1], []]}, "prompt must have at least one token in every row"),
    ],
)
def test_bad_options_are_refused_before_the_prompt_is_read(build, options, message):
    session = Session(build())
    with pytest.raises(ValueError, match=message):
        session.generate(**({"prompt": [1], "max_new_tokens": 3} | options))
    assert session.batch_size is None


def test_an_option_that_there_is_not_is_named(build):
    session = Session(build("AG", vocab_size=257), tokenizer="bytes")
    told = "unexpected keyword argument 'temprature'$"
    for read in (session.ask, session.generate, session.stream):
        with pytest.raises(TypeError, match=told):
            read("Which?", 3, temprature=1)
    assert session.batch_size is None


@pytest.mark.parametrize("options", [{"temperature": t} for t in (1e-300, 1e-40, 1e-38, 1e-20)] + [{"top_p": 1e-300}])
def test_what_underflows_takes_the_most_likely_token(build, draw_tokens, options):
    model, prompt = build(), draw_tokens(3, 4)
    greedy = Session(model).generate(prompt, 9, temperature=0)
    assert torch.equal(Session(model).generate(prompt, 9, seed=0, **options), greedy)
