"""
The model that training started from, as readers of a card can know it: a name on the Hub, or that of a folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .card_text import as_code, plain


# What the config of the built-in model is called, which is neither on the Hub nor in a folder
BUILT_IN = "arena"
# A snapshot in the cache of the Hub: `models--org--name/snapshots/<commit>`
IN_CACHE = re.compile(r"models--([\w.-]+?)(?:--([\w.-]+))?[/\\]snapshots[/\\]")


@dataclass(frozen=True)
class Base:
    """
    A model that training started from.

    Args:
        name (`str`, *optional*):
            Its name on the Hub, or the last part of its path; `None` for a model that was made in code.
        on_hub (`bool`):
            Whether it is a name on the Hub.
    """

    name: str | None
    on_hub: bool

    @property
    def hub_id(self) -> str | None:
        """Its name on the Hub, `None` where it has none."""
        return self.name if self.on_hub else None

    def __str__(self) -> str:
        if self.name is None:
            return "a model without a name, which was made in code"
        if self.name == BUILT_IN and not self.on_hub:
            return "the built-in model of trl_dapo"
        if self.on_hub:
            return f"[{self.name}](https://huggingface.co/{self.name})"
        return f"{as_code(self.name)}, a local model (that is the name of its folder, and not one on the Hub)"


def base_of(name_or_path: Any) -> Base:
    """
    Returns what to call a model.

    Args:
        name_or_path (`str`, *optional*):
            What its config says it was loaded from. Of a path, the last part alone is kept.
    """
    if not name_or_path:
        return Base(None, False)
    given = str(name_or_path)
    if given == BUILT_IN:
        return Base(given, False)
    if cached := IN_CACHE.search(given):
        return Base("/".join(part for part in cached.groups() if part), True)
    if not Path(given).exists() and _may_be_on_hub(given):
        return Base(given, True)
    return Base(plain(Path(given).resolve().name) or None, False)


def _may_be_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
