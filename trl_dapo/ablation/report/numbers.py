"""
Numbers as the report writes them. Accuracy is in percent and differences in points, with one decimal.
"""

from ..scores import TIE
from ..statistics import Difference, Interval


NOTHING = "–"
NOT_RESOLVED, RESOLVED = "not resolved", "resolved"
ONE_SEED, EQUAL_SEEDS = "one seed: no interval", "equal seeds: no interval"
MOST_SEEDS = 1000


def percent(share: float | None) -> str:
    """Returns a share in percent, without the sign."""
    return NOTHING if share is None else _signed(f"{100 * share:.1f}")


def points(difference: float | None) -> str:
    """Returns a difference of shares in points, with its sign."""
    return NOTHING if difference is None else _signed(f"{100 * difference:+.1f}")


def interval(found: Interval | None, reader=percent) -> str:
    """Returns an interval of shares, or of differences if `reader` is [`points`]."""
    return NOTHING if found is None else f"[{_end(found.low, reader)}, {_end(found.high, reader)}]"


def _end(value: float, reader) -> str:
    # An interval that begins just above 0 leaves 0 out, and has to look so: +0.0
    if reader is points and abs(value) > TIE and reader(value) == "0.0":
        return "+0.0" if value > 0 else "−0.0"
    return reader(value)


def no_interval(seeds: int) -> str:
    """Returns why a mean over so many seeds has no interval."""
    return ONE_SEED if seeds == 1 else EQUAL_SEEDS


def seeds_needed(value: int | None) -> str:
    """Returns a number of seeds. Beyond a thousand the number itself says nothing."""
    return f">{MOST_SEEDS:,}" if value is not None and value > MOST_SEEDS else count(value)


def p_value(value: float | None) -> str:
    """Returns a p-value with two digits that say something."""
    if value is None:
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: float | None) -> str:
    """Returns a number of things, in groups of three digits; below 10 with a decimal if it has one."""
    if value is None:
        return NOTHING
    return f"{value:.1f}" if value < 10 and value != round(value) else f"{value:,.0f}"


def plain(value: float) -> str:
    """Returns any number with four digits that say something."""
    return _signed(f"{value:.4g}")


def verdict(difference: Difference | None) -> str:
    """Returns whether a difference is resolved: whether its interval over seeds leaves 0 out."""
    if difference is None:
        return NOTHING
    if difference.over_seeds is None:
        return no_interval(difference.seeds)
    return RESOLVED if difference.is_resolved else NOT_RESOLVED


def _signed(text: str) -> str:
    zero = text.strip("+-0.") == ""
    return text.lstrip("+-") if zero else text.replace("-", "−")
