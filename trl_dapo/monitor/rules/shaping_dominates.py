"""
Shaping dominates: most of the reward's variance comes from functions that do not say whether an answer is right.

Told from the spread over the batch, which also holds what differs between prompts.
"""

from collections.abc import Sequence

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import is_shaping


BOUND = 0.7


def _watches(seen: Observations) -> str | None:
    return f"rewards/{seen.columns[0]}/std" if len(seen.columns) > 1 else None


def _weights(seen: Observations, settings: Settings) -> dict[str, float]:
    """Weight of each function: as set, else 1; that of one that is not known, from the mean reward."""
    given = settings.get("reward_weights")
    names = seen.columns
    weights = dict.fromkeys(names, 1.0)
    if isinstance(given, Sequence) and not isinstance(given, str):
        weights |= {name: float(weight) for name, weight in zip(names, given, strict=False)}
        unknown = names[len(given) :]
    else:
        unknown = [name for name in names if is_shaping(name)]
    if len(unknown) == 1:
        values = seen.row.values
        mean = values.get(f"rewards/{unknown[0]}/mean", 0.0)
        rest = sum(weights[name] * values.get(f"rewards/{name}/mean", 0.0) for name in names if name != unknown[0])
        if abs(mean) > 1e-6:
            weights[unknown[0]] = (values.get("reward", 0.0) - rest) / mean
    return weights


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    weights, values = _weights(seen, settings), seen.row.values
    named = settings.get("dynamic_sampling_metric")
    spreads = {name: weights[name] * values.get(f"rewards/{name}/std", 0.0) for name in seen.columns}
    # A product of floats may be infinite, a power that is raises
    parts = {name: spread * spread for name, spread in spreads.items()}
    total = sum(parts.values())
    shaping = {name: part for name, part in parts.items() if (name != named if named in parts else is_shaping(name))}
    # NaN, of a function without rewards, is no share
    if (
        not shaping
        or len(shaping) == len(parts)
        or not total > 0
        or not (share := sum(shaping.values()) / total) > BOUND
    ):
        return None
    largest = max(shaping, key=shaping.__getitem__)
    return Symptom(
        seen.row.step,
        f"{share:.0%} of the reward's variance comes from shaping, most of it from {largest}.",
        {"share": share, "weight": weights[largest]},
        (f"reward_weights: {largest} a third of {weights[largest]:.3g}",),
    )


RULE = Rule(
    name="shaping_dominates",
    watches=_watches,
    needs="`rewards/<name>/std` of two functions",
    look=_look,
    minimum=4,
    patience=4,
    advice="Give shaping less weight: advantages follow what varies, and that is not whether the answer is right.",
    reference="docs/configuration.md, the scale of the length penalty",
)
