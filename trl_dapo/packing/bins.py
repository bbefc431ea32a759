"""
Rows of different lengths, packed into micro-batches that pad as little as possible.

Integers in, lists of row numbers out; nothing here knows about tensors or losses. A row has two widths in tokens: its
prompt, which is padded on the left, and its completion, which is padded on the right. A micro-batch is as wide as its
widest prompt plus its widest completion. Every row ends up in exactly one micro-batch.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise


# Tokens of a row's prompt (left) and of its completion (right)
Widths = tuple[int, int]


def padded_tokens(widths: Sequence[Widths]) -> int:
    """Returns the tokens of one micro-batch, padding included: rows times (widest prompt + widest completion)."""
    if not widths:
        return 0
    return len(widths) * (max(left for left, _ in widths) + max(right for _, right in widths))


def pack(widths: Sequence[Widths], count: int) -> list[list[int]]:
    """
    Returns the rows of `count` micro-batches whose largest has as few padded tokens as possible.

    Rows are sorted by length and cut into runs. If all prompts have the same width, or all completions, no partition
    has a smaller largest micro-batch: dealing rows to it in falling order never widens one of its micro-batches. If
    both differ, the best of three orders is used. One row that is very long does not raise the limit for the others.
    Cuts that are left over go where they save the most padding.

    Args:
        widths (`Sequence[tuple[int, int]]`):
            Prompt and completion width of each row, in tokens.
        count (`int`):
            Number of micro-batches, at least 1. With fewer rows than that, each row has its own.

    Returns:
        `list[list[int]]`: Row numbers, longest rows first. No micro-batch is empty.

    Raises:
        `ValueError`: If there are rows and `count` is below 1.
    """
    if not widths:
        return []
    if count < 1:
        raise ValueError(f"{len(widths)} rows need at least one micro-batch, and count={count}.")
    plans = [_packed_in_order(order, widths, min(count, len(widths))) for order in _orders(widths)]
    return min(plans, key=lambda plan: _cost(plan, widths))


def pack_within(widths: Sequence[Widths], limit: int) -> list[list[int]]:
    """
    Returns the fewest micro-batches, in the orders of [`pack`], of which none exceeds `limit` padded tokens.

    A row that is longer than `limit` by itself has its own micro-batch.
    """
    # The orders are compared by number here; `pack` then spreads the rows evenly over that many micro-batches
    fewest = min((len(_cut(order, widths, limit)) for order in _orders(widths)), default=0)
    return pack(widths, fewest)


def chunks(lengths: Sequence[int], most_rows: int) -> list[list[int]]:
    """Returns the rows in chunks of at most `most_rows`: similar lengths together, longest first."""
    if most_rows < 1:
        raise ValueError(f"a chunk holds at least one row, and most_rows={most_rows}.")
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + most_rows] for start in range(0, len(order), most_rows)]


def turns(microbatches: int, steps: int) -> list[range]:
    """
    Returns which micro-batches each of the host's accumulation steps runs, in order.

    If there are any, the last step runs at least one, because gradients are synchronised in that step.
    """
    bounds = [step * microbatches // steps for step in range(steps + 1)]
    return [range(start, end) for start, end in pairwise(bounds)]


def _orders(widths: Sequence[Widths]) -> list[list[int]]:
    """The orders in which rows are cut, each falling: by total length, by completion, by prompt."""
    keys: list[Callable[[int], tuple[int, ...]]] = [lambda row: (sum(widths[row]),)]
    # With one of the two widths constant, all three orders are the same
    if len({left for left, _ in widths}) > 1 and len({right for _, right in widths}) > 1:
        keys += [lambda row: widths[row][::-1], lambda row: widths[row]]
    return [sorted(range(len(widths)), key=key, reverse=True) for key in keys]


def _packed_in_order(order: list[int], widths: Sequence[Widths], count: int) -> list[list[int]]:
    # The smallest limit at which the order fits into `count` runs: a higher limit never needs more runs
    low, high = 1, padded_tokens(widths)
    while low < high:
        middle = (low + high) // 2
        if len(_cut(order, widths, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    plan = _cut(order, widths, high)
    # Fewer runs can be enough for that limit, and each further cut saves padding
    while len(plan) < count and (best := _best_cut(plan, widths)) is not None:
        number, row = best
        plan[number : number + 1] = [plan[number][:row], plan[number][row:]]
    return plan


def _cut(order: list[int], widths: Sequence[Widths], limit: int) -> list[list[int]]:
    """Cuts the order into runs of at least one row, each as long as `limit` padded tokens allow."""
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
    """The micro-batch, and the row in it, before which one more cut saves the most padded tokens; else `None`."""
    savings = [
        (saved, -number, start)  # of equal savings, `max` takes the first micro-batch
        for number, rows in enumerate(plan)
        for start, saved in enumerate(_savings([widths[row] for row in rows]), start=1)
    ]
    if not savings:
        return None
    _, number, start = max(savings)
    return -number, start


def _savings(widths: list[Widths]) -> list[int]:
    """How many padded tokens a cut before row 1, 2, ... saves."""
    # The widest prompt and completion of the first and of the last rows, for every cut at once: linear, not quadratic
    widest: list[list[list[int]]] = [
        [list(accumulate(values, max)), list(accumulate(reversed(values), max))[::-1]]
        for values in map(list, zip(*widths, strict=True))
    ]
    (head_left, tail_left), (head_right, tail_right) = widest
    rows, whole = len(widths), len(widths) * (head_left[-1] + head_right[-1])
    return [
        whole
        - start * (head_left[start - 1] + head_right[start - 1])
        - (rows - start) * (tail_left[start] + tail_right[start])
        for start in range(1, rows)
    ]


def _cost(plan: list[list[int]], widths: Sequence[Widths]) -> tuple[int, int]:
    """The padded tokens of the largest micro-batch of several rows, then of all micro-batches."""
    # Nothing can be done about a single row: however long it is, it must not decide between orders
    tokens = [(len(rows), padded_tokens([widths[row] for row in rows])) for rows in plan]
    return max((size for rows, size in tokens if rows > 1), default=0), sum(size for _, size in tokens)
