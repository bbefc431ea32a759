"""
The settings that decide what a run computes, as a part of a checkpoint, so that a change at a resume is told.
"""

from typing import Any

from accelerate.logging import get_logger


logger = get_logger(__name__)


class Settings:
    """
    Fields of a config that a checkpoint remembers.

    Args:
        args (`Any`):
            The config.
        names (`Iterable[str]`):
            Its fields that decide what is computed.
        remarks (`dict[str, str]`, *optional*):
            What a change means, by field.
    """

    def __init__(self, args: Any, names: Any, remarks: dict[str, str] | None = None) -> None:
        self._args, self._names, self._remarks = args, tuple(names), remarks or {}

    def state_dict(self) -> dict[str, Any]:
        return {name: _plain(getattr(self._args, name)) for name in self._names}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Says of each field in one line where this run differs from the one that saved the checkpoint."""
        for name, value in self.state_dict().items():
            if state is not None and name in state and state[name] != value:
                remark = f" {self._remarks[name]}" if name in self._remarks else ""
                logger.warning(f"{name} was {state[name]!r} in the checkpoint and is {value!r} from here on.{remark}")


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)
