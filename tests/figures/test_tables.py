"""Tables of texts."""

from lmsleep.figures.tables import losses_table, records_table


def test_losses_of_text_stand_beside_n_1_at_equal_steps_and_operations():
    loss = {"metric": "test_loss", "slice": 0, "low": 0.9, "high": 1.1, "n": 3}
    losses = [
        loss | {"n_passes": n, "trained_as": as_n, "tokens": tokens, "value": value}
        for n, as_n, tokens, value in ((1, 1, 105e6, 1.0), (1, 4, 380e6, 0.875), (4, 4, 105e6, 0.9375))
    ]
    apart = [
        {"n_passes": 4, "trained_as": 4, "against": against, "value": value, "low": value - 0.5, "high": value + 0.5}
        for against, value in (("equal steps", -0.0625), ("up to equal operations", 0.0625))
    ]
    table = losses_table({"losses": losses, "text": [record | {"n": 3} for record in apart]})
    assert table.iloc[1, :3].to_list() == ["N = 1, operations of N = 4", "380.0 M", "0.8750"]
    spans = ["-0.0625 (-0.5625 to +0.4375)", "+0.0625 (-0.4375 to +0.5625)"]
    assert table.iloc[2].to_list() == ["N = 4", "105.0 M", "0.9375", "0.9000 to 1.1000", *spans]
    assert table.iloc[0, 4:].to_list() == ["", ""]


def test_numbers_of_a_record_are_text():
    record = {"n_passes": 2, "at_test": 40038400, "value": 1234.5, "low": 0.123456, "high": None, "rows": float("nan")}
    assert records_table([record]).to_dict("records") == [
        {"N": "2", "at test": "40,038,400", "value": "1,234", "low": "0.1235", "high": "–", "rows": "–"}
    ]
