"""The numbers of results/README.md: every figure at every scale, with intervals."""

import json
from pathlib import Path

import pandas as pd
from tests.documents import rule110
from tests.documents.document import Document
from tests.documents.gpu import before
from tests.documents.paper import BY_WINDOWS, PARALLEL, depo_csv, fig6_speeds, one_hop_begins, one_sequence
from tests.documents.readme import cost, latency, pauses, slowdown, step_times, token_range, whole_runs
from tests.documents.seeds import CHOSEN_ON
from tests.documents.sources import (
    DEPO_HOPS,
    ahead,
    answers,
    at_the_end,
    average_runs,
    count_runs,
    depo_runs,
    ends,
    listed,
    markdown,
    mean,
    millions,
    passes,
    percents,
    points,
    read,
    scores,
)

from lmsleep.figures.stats import wilson
from lmsleep.figures.words import percent

OWN = (
    r"95 % (?:t )?intervals?",
    r"torch 2\.\d+",
    r"5 B\b",  # the paper's budget
    r"4\.6 B\b",
    r"60k to 150k parameters",
)
GSM = {"fig4a": "4a, hard eviction", "fig4b": "4b, looped, Jet layers", "fig5": "5, sliding window"}
SCALES = ("mini", "gpu", "paper")
ACROSS = ["scale", "slice", "seeds", "N = 1", "N = 2", "N = 3", "N = 4", "N = 2 above N = 1", "N = 4 above N = 1"]


def documents(root: Path) -> list[Document]:
    """The page."""
    tables = {"fig2a": fig2a(root), "fig2b": fig2b(root), "fig3": fig3(root), "gsm": operations(root)}
    tables |= {"made with": made_with(root)}
    said = (*mini_sentences(root), *paper_sentences(root), *speed_sentences(root))
    return [Document("results/README.md", tables, said, OWN)]


def most_seeds(root: Path, figure: str) -> pd.DataFrame:
    """Test scores of a mini figure, of all seeds that were run."""
    more = root / f"results/seeds/{figure}.csv"
    return scores(more if more.exists() else root / f"results/mini/{figure}.csv")


def of_scale(root: Path, figure: str) -> dict[str, pd.DataFrame]:
    """The scores of a figure at each scale that has it: of all seeds at mini scale, at paper scale of validations."""
    found = {"mini": depo_runs(root) if figure == "fig3" else most_seeds(root, figure)}
    for scale in SCALES[1:]:
        table = root / f"results/{scale}/{figure}.csv"
        if table.exists():
            part = scores(table)
            found[scale] = at_the_end(table) if part.empty else part
    return found


def across(scale: str, level: str, part: pd.DataFrame) -> list[str]:
    """A row: means by N, and how far N = 2 and 4 are above N = 1, paired by seed; nothing of an N that is not there."""
    there, seeds = passes(part), part.seed.nunique()
    means = [percent(mean(part, n).value) if n in there else "" for n in (1, 2, 3, 4)]
    return [scale, level, str(seeds), *means, *(points(ahead(part, n)) if n in there else "" for n in (2, 4))]


def together(scale: str, level: str, *sets: pd.DataFrame) -> list[str]:
    """The row of several sets of runs with the same seeds: a seed's runs are averaged first. Values of N that not every
    set has are left out, since averages of more and of fewer runs are no pair."""
    common = set.intersection(*(set(passes(part)) for part in sets))
    runs = pd.concat(sets)
    runs = runs[runs.n_passes.isin(common)]
    counts = sorted({str(count) for count in runs.groupby("n_passes").size()})
    row = across(scale, f"{level}, with earlier runs", average_runs(runs))
    row[2] += f" ({' to '.join(counts)} runs)"
    return row


def fig2a(root: Path) -> str:
    """Accuracy against t; two seeds have no interval worth the name."""
    rows = []
    for scale, part in of_scale(root, "fig2a").items():
        for t in sorted(map(int, part.slice.unique())):
            whole = mean(part, level=t)
            spread = ends(whole) if whole.n > 2 else percents(list(part[part.slice == t].sort_values("seed").value))
            rows.append([scale, str(t), str(whole.n), percent(whole.value), spread])
    return markdown(["scale", "t", "seeds", "right", "95 % interval; of two seeds the scores"], rows)


def fig2b(root: Path) -> str:
    """Accuracy against N, at several numbers of steps."""
    folder, gpu = root / "results/paper", root / "results/gpu"
    mini, fresh, long = of_scale(root, "fig2b").values()
    six = rule110.both_t12(folder)[0]
    return markdown(
        ACROSS,
        [
            across("mini", "t = 4", mini),
            together("mini", "t = 4", mini, scores(root / "results/seeds/fig2b_earlier.csv")),
            across("gpu", "t = 12", fresh),
            together("gpu", "t = 12", at_the_end(gpu / "fig2b.csv"), before(gpu)),
            across("paper", "t = 12", six),
            together("paper", "t = 12", six, rule110.first_set(folder, rule110.END_T12)),
            across("paper", "t = 32", long),
        ],
    )


def fig3(root: Path) -> str:
    """Accuracy against N, at each number of hops; paper's sizes have seen too little."""
    rows = []
    for scale, part in of_scale(root, "fig3").items():
        for k in sorted(map(int, part.slice.unique())):
            near, hops = part[part.slice == k], f"{k} hop{'s' if k > 1 else ''}"
            rows.append(across(scale, hops, near[near.again == 0] if scale == "mini" else near))
            rows += [together(scale, hops, near)] if scale == "mini" else []
    return markdown(ACROSS, rows)


def operations(root: Path) -> str:
    """Accuracy on GSM-Infinite by the number of operations; at most four of them, the largest and those like it."""
    rows = []
    for figure, name in GSM.items():
        for scale, part in of_scale(root, figure).items():
            levels = sorted(map(int, part.slice.unique()))
            shown = levels if len(levels) <= 4 else levels[1::2]
            rows += [[name, *across(scale, f"{k} operation{'s' * (k > 1)}", part[part.slice == k])] for k in shown]
    return markdown(["figure", *ACROSS], rows)


def made_with(root: Path) -> str:
    """What the runs recorded, those of one scale and code together."""
    groups: dict[tuple[str, ...], list[tuple[str, dict]]] = {}
    for scale in SCALES:
        for path in sorted((root / "results" / scale).glob("*.meta.json")):
            found = json.loads(path.read_text())
            commits = ", ".join(f"`{commit[:7]}{'+' * commit.endswith('+')}`" for commit in found["commit"])
            key = scale, commits, *(", ".join(found[name]) for name in ("torch", "hardware"))
            groups.setdefault(key, []).append((path.name.partition(".")[0], found))
    rows = []
    for (scale, *made), members in groups.items():
        seconds = [found.get("seconds") for _, found in members]
        hours = "" if None in seconds else f"{sum(seconds) / 3600:.2f}"
        runs = str(sum(found["runs"] for _, found in members))
        rows.append([scale, ", ".join(name for name, _ in members), runs, hours, *made])
    return markdown(["scale", "tables", "runs", "hours of all runs", "commit", "torch", "hardware"], rows)


def mini_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of mini runs."""
    rule, depo = most_seeds(root, "fig2b"), depo_runs(root)
    shown = scores(root / "results/mini/fig2b.csv")
    late = rule[rule.seed > CHOSEN_ON]
    k, near, far = int(depo.slice.max()), depo[depo.slice == DEPO_HOPS], depo[depo.slice == depo.slice.max()]
    now, gsm = near[near.again == 0], scores(root / "results/mini/fig4a.csv")
    commonest = read(root / "results/mini/majority.csv").set_index("slice").value["4"]
    return (
        f"The {shown.seed.nunique()} runs that `make repro` draws",
        f"they answer {answers(shown)} for N = 1, 2 and 4",
        f"[all {rule.seed.nunique()} seeds that were run](seeds/README.md) {answers(rule)} for N = 1, 2 and 4",
        f"**N = 2 is {points(ahead(rule, 2))} points above N = 1**, N = 4 {points(ahead(rule, 4))}",
        f"the second look alone, {late.seed.nunique()} seeds, says {points(ahead(late, 2))} and "
        f"{points(ahead(late, 4))}",
        f"At {DEPO_HOPS} hops the {now.seed.nunique()} seeds of today's code decide nothing (N = 2 "
        f"{points(ahead(now, 2))}, N = 4 {points(ahead(now, 4))}); with "
        f"{count_runs(near) - now.seed.nunique()} runs of an earlier code N = 2 is {points(ahead(near, 2))}",
        f"At 4 operations, the hardest, N = 1, 2 and 4 have {answers(gsm[gsm.slice == 4])} in figure 4a, and the "
        f"commonest answer {percent(commonest)}",
        f"At {k} hops they answer {answers(far)}",
    )


def paper_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of runs at the paper's sizes, and of scale gpu beside them."""
    folder = root / "results/paper"
    six, both = rule110.both_t12(folder)
    left, final = rule110.leaves(folder), rule110.finals_2b(folder)
    hop, end = one_hop_begins(folder, 1), at_the_end(depo_csv(folder))
    one = end[(end.n_passes == 1) & (end.slice == 1)].iloc[0]
    held = scores(folder / "fig2b.csv", "val_rows").value.iloc[0]
    spread = [ends(wilson(final[n], int(held))) for n in (1, 2)]
    gpu = scores(root / "results/gpu/fig3.csv")
    ordered = most_seeds(root, "fig2b"), scores(root / "results/gpu/fig2b.csv"), six
    return (
        f"decide {', and '.join(rule110.decided_2a(folder))} after "
        f"{millions(at_the_end(folder / 'fig2a.csv').tokens.min())} tokens",
        f"**N = 2 is {points(ahead(both, 2))} points above N = 1** over six seeds after {millions(rule110.END_T12)} "
        f"tokens, three of them run twice and averaged; the six once each give {points(ahead(six, 2))}. N = 4 is "
        f"{points(ahead(six, 4))} above N = 1",
        f"one seed and {millions(rule110.END_2B)} of the paper's 5 B tokens give {percents(list(final.values()))} for "
        f"N = 1, 2, 3 and 4, where always answering 1 gives {percent(rule110.majority(32), 2)}",
        f"N = 1 ({spread[0]} over its rows) leaves that line at {millions(left[1])} tokens",
        f"N = 2 ({spread[1]}) is below N = 1",
        f"The paper prints {listed(rule110.printed(folder))} %",
        f"from {millions(hop)} tokens on with N = 1, {percent(one.value, 0)} at {millions(one.tokens)} of 4.6 B",
        f"over all hops N = 4 is {points(ahead(gpu, 4))} points above N = 1, N = 2 {points(ahead(gpu, 2))}",
        f"N = 4 is {listed([points(ahead(part, 4, 2)) for part in ordered])} points above N = 2",
        whole_runs(root),
    )


def speed_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of speed."""
    mini, paper = root / "results/mini", root / "results/paper"
    speed, alone = fig6_speeds(mini), one_sequence(paper)
    windows = sorted({window for _, window, _ in speed})
    slower = [1 - speed[BY_WINDOWS, window, 1] / speed[PARALLEL, window, 1] for window in windows]
    times = speed[BY_WINDOWS, windows[-1], 1] / speed[BY_WINDOWS, windows[-1], 4]
    step = step_times(root)
    cpu = latency(mini)
    far = read(paper / "latency.csv")
    far = far[(far.model == "hybrid") & (far.metric == "latency_mean_ms")].groupby("slice").value.mean()
    return (
        f"{cost(paper)} slower than a parallel sliding window at most, in one measurement, the fastest of two steps",
        f"with one sequence {percent(alone, 0)} slower. N = 4 is {slowdown(paper)} times slower than N = 1",
        f"by windows of {windows[0]} to {windows[-1]} tokens {100 * min(slower):.0f} to {percent(max(slower), 0)} "
        f"slower, most with the smallest, and N = 4 {times:.1f} times with the largest",
        f"takes {token_range(paper)} ms a token on an H100",
        f"{percent(1 - far['100'] / far['10'], 0)} faster",
        f"a sleep over 1,024 tokens takes {pauses(paper)} ms for N = 2 to 6",
        f"{cpu.min():.1f} to {cpu.max():.1f} ms a token on a CPU",
        f"{step['rule110.yaml', 1]:.1f} and {step['rule110.yaml', 4]:.1f} ms a step for N = 1 and 4",
    )
