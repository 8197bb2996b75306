"""What problems ask for: shares of the kinds of `Parameter`, as the published generator has them.

Measured on its forward mode with its shipped settings (template zoo); newborn totals at five operations, which it asks
for in a fifth of the problems of three layers, are held at a tenth.
"""

from lmsleep.tasks.gsm_infinite.draws import Draws

# By number of layers; a row for 1, 2, ... operations, the last of which serves beyond. Two layers have no average, so
# their single operation is a look-up of a count.
QUESTIONS = {
    2: (
        {"count": 1.0},
        {"total_count": 1.0},
        {"total_count": 0.51, "count": 0.49},
        {"total_count": 0.93, "count": 0.07},
        {"total_count": 0.86, "count": 0.14},
        {"total_count": 0.75, "count": 0.25},
        {"total_count": 0.75, "count": 0.25},
        {"total_count": 0.70, "count": 0.30},
    ),
    3: (
        {"average": 1.0},
        {"average": 0.79, "count": 0.16, "total_count": 0.05},
        {"average": 0.80, "count": 0.14, "total_count": 0.06},
        {"total_count": 0.74, "average": 0.24, "count": 0.02},
        {"average": 0.49, "total_count": 0.36, "total_product": 0.10, "count": 0.05},
        {"total_count": 0.55, "average": 0.39, "count": 0.06},
        {"average": 0.63, "total_count": 0.21, "total_product": 0.09, "count": 0.07},
        {"average": 0.56, "total_count": 0.29, "total_product": 0.09, "count": 0.06},
    ),
}


def draw_question(draws: Draws, layers: int, op: int) -> str:
    """The kind of the parameter that a problem of `op` operations asks for."""
    rows = QUESTIONS[layers]
    return draws.weighted(rows[min(op, len(rows)) - 1])
