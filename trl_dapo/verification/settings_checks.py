"""
Can the parts that are switched on act at all? Read from the config alone.
"""

from .findings import Finding, skipped
from .setup import Setup


CLIPPING, INERT = "clipping", "inert_parts"
# Losses without a clip range
UNCLIPPED = ("sapo", "vespo")
WORD = "clip_higher"


def check_settings(setup: Setup) -> list[Finding]:
    """Returns whether the clip range can act, and which other parts cannot have the effect that their name says."""
    lines = setup.args.inert_parts() if hasattr(setup.args, "inert_parts") else []
    others = [line for line in lines if not line.startswith(f"`{WORD}` has no effect")]
    return [_clipping(setup), _inert(others)]


def _clipping(setup: Setup) -> Finding:
    if not setup.generates:
        return skipped(CLIPPING, f"{setup.kind} has no importance ratio")
    args = setup.args
    accumulated = args.gradient_accumulation_steps
    updates = args.steps_per_generation * args.num_iterations / accumulated
    numbers = {"updates_per_rollout": updates}
    if args.loss_type in UNCLIPPED:
        return skipped(CLIPPING, f"loss_type={args.loss_type!r} does not clip")
    if updates > 1:
        return Finding(CLIPPING, "pass", f"{updates:g} updates per rollout: the importance ratio moves", numbers)
    field = "updates_per_rollout: 4" if setup.kind == "dapo" else f"steps_per_generation: {4 * accumulated}"
    return Finding(
        CLIPPING,
        "warn",
        "one update per rollout: the importance ratio is exactly 1, and no clip range can act",
        numbers,
        field,
    )


def _inert(lines: list[str]) -> Finding:
    numbers = {"parts": float(len(lines))}
    if not lines:
        return Finding(INERT, "pass", "every part that is on can act", numbers)
    return Finding(INERT, "warn", " ".join(lines), numbers, details={"lines": lines})
