"""
What a run was set to, as far as rules look at it: fields of a config by name, or none where they are not known.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


# What rules read; the rest of a config is left alone
FIELDS = (
    "beta",
    "dynamic_sampling",
    "dynamic_sampling_metric",
    "epsilon",
    "epsilon_high",
    "fp16",
    "gradient_accumulation_steps",
    "learning_rate",
    "max_completion_length",
    "max_grad_norm",
    "max_refill_rounds",
    "num_generations",
    "num_iterations",
    "reward_weights",
    "scale_rewards",
    "soft_punish_cache",
    "steps_per_generation",
)


@dataclass(frozen=True)
class Settings:
    """
    Fields of a run's config.

    Args:
        values (`dict[str, Any]`, *optional*):
            Values by name. A field that is missing is not known.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, args: Any) -> "Settings":
        """
        Returns the fields of a trainer's config.

        Args:
            args ([`~transformers.TrainingArguments`]):
                The config.
        """
        names = {one.name for one in dataclasses.fields(args)} if dataclasses.is_dataclass(args) else set()
        return cls({name: getattr(args, name) for name in FIELDS if name in names})

    def get(self, name: str) -> Any:
        """Returns a field's value, or `None` where it is not known or not set."""
        return self.values.get(name)

    def number(self, name: str) -> float | None:
        """Returns a field's value, or `None` where it is no number."""
        value = self.values.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def updates_per_rollout(self) -> float | None:
        """Optimizer updates from one rollout to the next, or `None` where it is not known."""
        steps, accumulated = self.number("steps_per_generation"), self.number("gradient_accumulation_steps")
        if not steps or not accumulated:
            return None
        return steps * (self.number("num_iterations") or 1) / accumulated


def read_settings(run: Path) -> Settings:
    """
    Returns what a run's folder says of its settings, in the `command.json` that a training command leaves there.

    Without that file, or where it says something else, nothing is known. `training_args.bin` is a pickle, which could
    run code, so it is not opened.
    """
    for folder in (run, run.parent, run.parent.parent):
        path = folder / "command.json"
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                return Settings()
            return Settings(_fields_in(content))
    return Settings()


def _fields_in(content: Any) -> dict[str, Any]:
    """The known fields in the file: at its top, in a mapping right below, or in the newest of its starts."""
    if not isinstance(content, Mapping):
        return {}
    starts = content.get("starts")
    newest = starts[-1] if isinstance(starts, list) and starts else None
    places = [content, *content.values(), newest.get("values") if isinstance(newest, Mapping) else None]
    return {name: place[name] for place in places if isinstance(place, Mapping) for name in FIELDS if name in place}
