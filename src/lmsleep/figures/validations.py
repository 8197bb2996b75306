"""Runs that were not tested, compared by their validations at the same tokens."""

import pandas as pd

RUN = ["model", "n_passes", "seed", "slice"]  # what tells the runs of a figure apart


def last_common_tokens(table: pd.DataFrame) -> int:
    """The last number of tokens at which every run was validated. Raises ValueError if there is none."""
    exact = table[(table.metric == "val_exact") & (table["slice"] != "all")]
    common = set.intersection(*(set(group.tokens) for _, group in exact.groupby(RUN)))
    if not common:
        raise ValueError("runs must have a validation at the same tokens, got none; name some with --at")
    return int(max(common))


def as_tests(table: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """What figures draw of the table, with the validations at `tokens` as tests. Raises ValueError if no run was
    validated there."""
    tested = table[table.tokens == tokens]
    if tested.empty:
        there = ", ".join(f"{n:,}" for n in sorted(table.tokens.unique())[-5:])
        raise ValueError(f"at must be tokens at which a run was validated (the last are {there}), got {tokens:,}")
    return pd.concat([shared(table), tested.assign(metric=tested.metric.str.replace("val_", "test_"))])


def shared(table: pd.DataFrame) -> pd.DataFrame:
    """The validations that all seeds of a curve have: a mean over changing seeds would jump where one ends."""
    curves = ["model", "n_passes", "slice"]
    seeds = table.groupby(curves).seed.transform("nunique")
    return table[table.groupby([*curves, "metric", "tokens"]).seed.transform("nunique") == seeds]
