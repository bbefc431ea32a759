"""Placeholder."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Regime:
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    design: Any = None

    def start(self, seed: int) -> str:
        return f"default-{seed % 3}"


REGIMES = {"default": Regime("default")}
