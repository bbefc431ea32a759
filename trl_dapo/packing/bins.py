"""
Rows of different lengths, packed into micro-batches that pad as little as possible.

Pure: integers in, lists of row numbers out. It knows neither tensors nor losses. A row has two widths, in tokens: what
is padded on the left (the prompt) and what is padded on the right (the completion); each side of a micro-batch is as
wide as its widest row. The invariant: every row is in exactly one micro-batch.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise


Widths = tuple[int, int]


def padded_tokens(widths: Sequence[Widths]) -> int:
    """Returns the tokens of one micro-batch, padding included: rows times the widest sides."""
    if not widths:
        return 0
    return len(widths) * (max(left for left, _ in widths) + max(right for _, right in widths))


def pack(widths: Sequence[Widths], count: int) -> list[list[int]]:
    """
    Returns the rows of each of `count` micro-batches, of which the largest is as small as possible in padded tokens.

    Rows are put in order of length and cut into runs. Where all left sides are equal, as for rows of one prompt, or
    all right sides, no partition has a smaller largest micro-batch: taking rows in falling order never widens any of
    its micro-batches. Where both differ, the best of three orders is taken. Rows that are long by themselves do not
    let others be together that need not be, and cuts that are left over go where they save the most padding.

    Args:
        widths (`Sequence[tuple[int, int]]`):
            Left and right width of each row, in tokens.
        count (`int`):
            Number of micro-batches, at least 1. With fewer rows than that, one micro-batch per row.

    Returns:
        `list[list[int]]`: Row numbers, the micro-batch with the longest rows first; no micro-batch is empty.

    Raises:
        `ValueError`: Where there are rows and `count` is below 1.
    """
    if not widths:
        return []
    if count < 1:
        raise ValueError(f"{len(widths)} rows need at least one micro-batch, and count={count}.")
    plans = [_packed_in_order(order, widths, min(count, len(widths))) for order in _orders(widths)]
    return min(plans, key=lambda plan: _cost(plan, widths))


def pack_within(widths: Sequence[Widths], limit: int) -> list[list[int]]:
    """
    Returns as few micro-batches as the order of [`pack`] allows with none above `limit` padded tokens.

    A row that is longer than `limit` by itself has a micro-batch of its own.
    """
    fewest = min((len(_cut(order, widths, limit)) for order in _orders(widths)), default=0)
    return pack(widths, fewest)


def chunks(lengths: Sequence[int], most_rows: int) -> list[list[int]]:
    """Returns the rows in chunks of at most `most_rows`, rows of similar length together, the longest first."""
    if most_rows < 1:
        raise ValueError(f"a chunk holds at least one row, and most_rows={most_rows}.")
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + most_rows] for start in range(0, len(order), most_rows)]


def turns(microbatches: int, steps: int) -> list[range]:
    """
    Returns which micro-batches each of the host's accumulation steps runs, in order.

    The last step runs at least one where there is any, since gradients are synchronised in it.
    """
    bounds = [step * microbatches // steps for step in range(steps + 1)]
    return [range(start, end) for start, end in pairwise(bounds)]


def _orders(widths: Sequence[Widths]) -> list[list[int]]:
    """The orders in which rows are cut: by their whole length, by the right side, by the left side; each falling."""
    keys: list[Callable[[int], tuple[int, ...]]] = [lambda row: (sum(widths[row]),)]
    if len({left for left, _ in widths}) > 1 and len({right for _, right in widths}) > 1:
        keys += [lambda row: widths[row][::-1], lambda row: widths[row]]
    return [sorted(range(len(widths)), key=key, reverse=True) for key in keys]


def _packed_in_order(order: list[int], widths: Sequence[Widths], count: int) -> list[list[int]]:
    low, high = 1, padded_tokens(widths)
    while low < high:
        middle = (low + high) // 2
        if len(_cut(order, widths, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    plan = _cut(order, widths, high)
    while len(plan) < count and (best := _best_cut(plan, widths)) is not None:
        number, place = best
        plan[number : number + 1] = [plan[number][:place], plan[number][place:]]
    return plan


def _cut(order: list[int], widths: Sequence[Widths], limit: int) -> list[list[int]]:
    """Cuts the order into runs, each as long as `limit` padded tokens allow, and of at least one row."""
    plan: list[list[int]] = []
    left = right = 0
    for row in order:
        wider_left, wider_right = max(left, widths[row][0]), max(right, widths[row][1])
        if plan and (len(plan[-1]) + 1) * (wider_left + wider_right) <= limit:
            plan[-1].append(row)
            left, right = wider_left, wider_right
        else:
            plan.append([row])
            left, right = widths[row]
    return plan


def _best_cut(plan: list[list[int]], widths: Sequence[Widths]) -> tuple[int, int] | None:
    """The micro-batch, and the place in it, where one more cut saves the most padded tokens."""
    savings = [
        (saved, -number, place)
        for number, rows in enumerate(plan)
        for place, saved in enumerate(_savings([widths[row] for row in rows]), start=1)
    ]
    if not savings:
        return None
    _, number, place = max(savings)
    return -number, place


def _savings(widths: list[Widths]) -> list[int]:
    """How many padded tokens a cut before row 1, 2, ... saves."""
    sides: list[list[list[int]]] = [
        [list(accumulate(values, max)), list(accumulate(reversed(values), max))[::-1]]
        for values in map(list, zip(*widths, strict=True))
    ]
    (head_left, tail_left), (head_right, tail_right) = sides
    rows, whole = len(widths), len(widths) * (head_left[-1] + head_right[-1])
    return [
        whole
        - place * (head_left[place - 1] + head_right[place - 1])
        - (rows - place) * (tail_left[place] + tail_right[place])
        for place in range(1, rows)
    ]


def _cost(plan: list[list[int]], widths: Sequence[Widths]) -> tuple[int, int]:
    """The padded tokens of the largest micro-batch of several rows, then of all; a single row is as long as it is."""
    tokens = [(len(rows), padded_tokens([widths[row] for row in rows])) for rows in plan]
    return max((size for rows, size in tokens if rows > 1), default=0), sum(size for _, size in tokens)
