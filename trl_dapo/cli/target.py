"""
A dry run on a machine that is not the run's: what only the target can check is set aside while the configs are made.
"""

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError


# What a config is made with instead: nothing that needs the target's devices or packages
HERE: dict[str, Any] = {"use_cpu": True, "tf32": None, "deepspeed": None}
# Rewritten on construction where `use_cpu` is set
REWRITTEN = ("dataloader_pin_memory",)


@dataclass(frozen=True)
class SetAside:
    """Values that the user set, by field, to be put back once the config is made."""

    values: dict[str, Any]

    @classmethod
    def take(cls, values: dict[str, Any]) -> "SetAside":
        """Puts what works on every machine into `values`, and returns what was there."""
        check_deepspeed_file(values.get("deepspeed"))
        aside = cls({name: values[name] for name in (*HERE, *REWRITTEN) if name in values})
        if aside.values.get("use_cpu"):
            # Then pinning is off on the target too
            aside.values.pop("dataloader_pin_memory", None)
        values.update({name: value for name, value in HERE.items() if name in values})
        return aside

    def put_back(self, config: Any) -> None:
        """Writes the values into a config that has their fields."""
        if is_dataclass(config):
            names = {own.name for own in fields(config)}
            for name in names & set(self.values):
                setattr(config, name, self.values[name])


def check_deepspeed_file(value: Any) -> None:
    """Raises [`UsageError`] if a DeepSpeed config is named by a path that leads nowhere."""
    if isinstance(value, str) and not value.startswith("{") and not Path(value).is_file():
        raise UsageError(f"deepspeed={value}: there is no such file. Give the path of a JSON file.")
