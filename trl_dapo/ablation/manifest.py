"""
Which tables a folder of runs is for: `ablation.json`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..host.whole_files import write_whole
from .designs import Design, Row


MANIFEST, SCHEMA = "ablation.json", 1


@dataclass(frozen=True)
class Manifest:
    """
    The tables of a folder.

    Args:
        designs (`tuple[Design, ...]`):
            The designs.
        matches (`tuple[str, ...]`):
            What was matched.
    """

    designs: tuple[Design, ...] = ()
    matches: tuple[str, ...] = ()


def read_manifest(folder: Path) -> Manifest:
    """Returns the tables of a folder: none where the file is not there, or cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        designs = [
            Design(one["name"], tuple(Row(**row) for row in one["rows"]), one["is_cumulative"])
            for one in content["designs"]
        ]
        return Manifest(tuple(designs), tuple(content["matches"])) if content["schema"] == SCHEMA else Manifest()
    except (OSError, ValueError, TypeError, KeyError):
        return Manifest()


def merged_manifest(folder: Path, new: Manifest) -> Manifest:
    """Returns the tables of a folder with new ones behind them; a design of the same name is replaced."""
    names = {one.name for one in new.designs}
    earlier = [one for one in read_manifest(folder).designs if one.name not in names]
    return Manifest((*earlier, *new.designs), new.matches)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the file, whole or not at all."""
    content = {"schema": SCHEMA, **asdict(manifest)}
    write_whole(folder / MANIFEST, json.dumps(content, indent=1, default=str) + "\n")
