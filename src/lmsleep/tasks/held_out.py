"""Which groups of items are held out: those of a share, whole."""

import numpy as np


def hold_out(sizes: np.ndarray, parts: int, share: float, seed: int) -> list[np.ndarray]:
    """Divides groups among parts that are held out and, last, the rest. Returns the groups of each, one or more.

    A part takes the groups that fit into its share, in an order drawn from `seed`: one that is larger than a share is
    left to the rest. Where none fits, the part is the smallest alone.

    Args:
        sizes: items of each group, (groups,): more groups than parts.
        share: of all items, for each part.
    """
    left = np.random.default_rng(seed).permutation(len(sizes))
    room = max(1, min(round(share * sizes.sum()), (int(sizes.sum()) - 1) // max(1, parts)))
    found = []
    for others in range(parts, 0, -1):  # that need a group, too
        taken = _fitting(sizes[left], room)[: len(left) - others] or [int(sizes[left].argmin())]
        found.append(left[taken])
        left = np.delete(left, taken)
    return [*found, left]


def _fitting(sizes: np.ndarray, room: int) -> list[int]:
    """The places of sizes that fit into what is left of the room, one after the other."""
    taken = []
    for place, size in enumerate(sizes.tolist()):
        if size <= room:
            taken.append(place)
            room -= size
        if not room:
            break
    return taken
