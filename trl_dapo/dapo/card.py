"""
What the model card of a DAPO run tells: the toggles, what dynamic sampling cost, and the deviations from the paper.
"""

from typing import TYPE_CHECKING, Any

from ..host.card_text import Section, as_code, escaped, table
from .deviations import COLUMNS, deviations_of
from .sampling.tally import Tally
from .toggles import TOGGLES


if TYPE_CHECKING:
    from .config import DAPOConfig


# What each toggle sets, of which the card tells the value
VALUES = {
    "overlong_filtering": (),
    "clip_higher": ("epsilon", "epsilon_high"),
    "soft_overlong_punishment": ("soft_punish_cache", "max_completion_length"),
    "token_level_loss": ("loss_type", "token_level_scope"),
    "dynamic_sampling": ("max_refill_rounds", "surplus"),
}


def toggles_section(config: "DAPOConfig") -> Section:
    """Returns which of DAPO's parts were on, with their values."""
    rows = []
    for toggle in TOGGLES:
        on = getattr(config, toggle)
        values = ", ".join(as_code(f"{name}={getattr(config, name)}") for name in VALUES[toggle]) if on else ""
        rows.append((as_code(toggle), "on" if on else "off", values))
    return Section("DAPO", table(("part", "", "values"), rows))


def totals_section(tally: Tally, num_generations: int, waiting: int, samples: bool) -> Section:
    """
    Returns what was generated over the run.

    Args:
        tally ([`Tally`]):
            Its counts.
        num_generations (`int`):
            Completions of a group.
        waiting (`int`):
            Groups that are carried over to the next rollout.
        samples (`bool`):
            Whether dynamic sampling is on.
    """
    if not samples:
        return Section("Completions", f"{tally.completions_generated} completions were generated, and all trained on.")
    dropped = tally.groups_generated - tally.groups_kept - waiting
    rows = [
        ("rollouts", tally.rollouts),
        ("rounds of generation", tally.rounds),
        ("groups generated", tally.groups_generated),
        ("groups kept, which differ in their raw metric", tally.groups_kept),
        ("groups discarded", dropped),
        *([("groups carried over to the next rollout", waiting)] if waiting else []),
        ("rollouts that were not filled", tally.exhaustions),
        ("completions generated", tally.completions_generated),
    ]
    body = table(("over the run", "number"), [(name, str(number)) for name, number in rows])
    body += f"\n\nA group has {num_generations} completions of one prompt."
    if tally.counted_from:
        body += (
            f" Rollouts, rounds and groups are counted from completion {tally.counted_from} on: the checkpoint that "
            "the run resumed from did not count them."
        )
    return Section("Dynamic sampling", body)


def deviations_section(config: "DAPOConfig") -> Section:
    """Returns what the config does otherwise than the paper."""
    rows = [_row(row.cells()) for row in deviations_of(config)]
    return Section("Deviations from the paper", table([escaped(name) for name in COLUMNS], rows))


def _row(cells: tuple[Any, ...]) -> list[str]:
    field, *rest = cells
    return [as_code(field), *(escaped(cell) for cell in rest)]
