"""
Numbers as the report writes them. Accuracy is in percent and differences in points, with one decimal.
"""

from ..statistics import Difference, Interval


NOTHING = "–"
NOT_RESOLVED, RESOLVED, ONE_SEED = "not resolved", "resolved", "one seed: no interval"


def percent(share: float | None) -> str:
    """Returns a share in percent, without the sign."""
    return NOTHING if share is None else _signed(f"{100 * share:.1f}")


def points(difference: float | None) -> str:
    """Returns a difference of shares in points, with its sign."""
    return NOTHING if difference is None else _signed(f"{100 * difference:+.1f}")


def interval(found: Interval | None, reader=percent) -> str:
    """Returns an interval of shares, or of differences if `reader` is [`points`]."""
    return NOTHING if found is None else f"[{reader(found.low)}, {reader(found.high)}]"


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
        return ONE_SEED
    return RESOLVED if difference.is_resolved else NOT_RESOLVED


def _signed(text: str) -> str:
    zero = text.strip("+-0.") == ""
    return text.lstrip("+-") if zero else text.replace("-", "−")
