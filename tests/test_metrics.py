"""The scores against loops over rows, answers and tokens."""

import math
from collections import defaultdict

import pytest
import torch

from lmsleep.metrics import SliceScores, row_scores
from lmsleep.tasks import IGNORE


def batch(seed=0):
    """Six rows of eight positions: up to three answers of different length, targets outside answers, and gaps."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(6, 8, 4, generator=g)
    targets = torch.randint(4, (6, 8), generator=g)
    answers = torch.tensor([[-1, 0, 0, -1, 1, 1, 1, 2]]).repeat(6, 1)
    answers[1, 1:3] = -1  # this row lacks its first answer
    targets[:, 3] = IGNORE
    answers[4] = -1  # and this one has none
    right = torch.rand(6, 8, generator=g) < 0.8
    logits = torch.where(right[..., None], logits + 20 * torch.nn.functional.one_hot(targets.clamp(min=0), 4), logits)
    return logits, targets, answers, torch.tensor([2, 5, 5, 2, 5, 9])


def expected(*batches):
    """score -> (sum, count) for each slice and for None, all rows."""
    totals = defaultdict(lambda: defaultdict(lambda: [0.0, 0]))

    def add(level, name, value):
        for key in (level, None):
            totals[key][name][0] += value
            totals[key][name][1] += 1

    for logits, targets, answers, levels in batches:
        for b in range(len(targets)):
            tokens = defaultdict(list)
            for i, target in enumerate(targets[b].tolist()):
                if target == IGNORE:
                    continue
                scores = logits[b, i].tolist()
                nll = math.log(sum(map(math.exp, scores))) - scores[target]
                add(int(levels[b]), "loss", nll)
                answer = int(answers[b, i])
                if answer >= 0:
                    add(int(levels[b]), "answer_loss", nll)
                    add(int(levels[b]), "token", scores.index(max(scores)) == target)
                    tokens[answer].append(scores.index(max(scores)) == target)
            for right in tokens.values():
                add(int(levels[b]), "exact", all(right))
            if tokens:
                add(int(levels[b]), "rows", 1)
    return totals


def test_scores_equal_the_loops_per_slice_and_over_several_batches():
    scores = SliceScores((2, 5, 7, 9))
    batches = [batch(0), batch(1)]
    for one in batches:
        scores.update(*one)
    values = scores.compute()
    wanted = expected(*batches)
    assert {level for level in wanted if level is not None} == {2, 5, 9}
    names = set()
    for level, means in wanted.items():
        suffix = "" if level is None else f"-{level}"
        rows, _ = means.pop("rows")
        assert values[f"rows{suffix}"] == rows
        names.add(f"rows{suffix}")
        for name, (total, count) in means.items():
            assert values[name + suffix].item() == pytest.approx(total / count, rel=1e-5)
            names.add(name + suffix)
        assert values[f"count{suffix}"] == means["exact"][1]
        names.add(f"count{suffix}")
    assert set(values) == names  # a slice without rows is not reported
    assert 0 < values["exact"] < values["token"] < 1


def test_free_text_has_the_perplexity_of_its_loss_and_nothing_of_answers():
    of_answers, of_text = SliceScores((2, 5, 9)), SliceScores((2, 5, 9), has_answers=False)
    for scores in (of_answers, of_text):
        scores.update(*batch(0))
    values, wanted = of_text.compute(), of_answers.compute()
    names = {f"{name}{of}" for name in ("loss", "token", "rows") for of in ("", "-2", "-5", "-9")}
    assert values.keys() - {name for name in values if name.startswith("perplexity")} == names
    assert {name: values[name] for name in names} == {name: wanted[name] for name in names}
    for of in ("", "-2", "-5", "-9"):
        assert values[f"perplexity{of}"].item() == pytest.approx(math.exp(values[f"loss{of}"]), rel=1e-5)


def test_reset_forgets():
    scores = SliceScores((2, 5, 9))
    scores.update(*batch(0))
    scores.reset()
    scores.update(*batch(1))
    again = SliceScores((2, 5, 9))
    again.update(*batch(1))
    assert scores.compute() == again.compute()


def test_row_scores_give_each_row_its_own():
    logits, targets, answers, _ = batch()
    sums, counts = row_scores(logits, targets, answers)
    assert sums.shape == counts.shape == (4, 6)
    for b in range(6):
        alone = row_scores(logits[b : b + 1], targets[b : b + 1], answers[b : b + 1])
        torch.testing.assert_close(alone[0][:, 0], sums[:, b])
        torch.testing.assert_close(alone[1][:, 0], counts[:, b])
    assert counts[3].tolist() == [3, 2, 3, 3, 0, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_stay_exact_in_a_module_of_half_precision(dtype):
    """Of which `--trainer.precision bf16-true` makes the whole module."""
    metric, module = SliceScores((2, 5, 9)), SliceScores((2, 5, 9))
    torch.nn.ModuleList([module]).to(dtype)
    for seed in range(100):
        metric.update(*batch(seed))
        module.update(*batch(seed))
    found, wanted = module.compute(), metric.compute()
    assert found == wanted and found["rows"] == 500
    module.to("meta")
    assert module.sums.device.type == "meta"
