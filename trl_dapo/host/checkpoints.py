"""
Whether a checkpoint folder is whole, and which one a run resumes from after a kill at any moment.

Reads lengths, tables of contents and JSON, never a tensor; knows neither torch nor trainers. The one invariant: the
host writes `trainer_state.json` last, and the trainer removes an old one first. So a folder is whole only where that
file is there, and every file beside it has its full length; what was deleted since is told by what remains.

Sub-folders, in which FSDP and DeepSpeed keep their shards, are not looked into. All processes write into one folder.
"""

import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


STATE_FILE = "dapo_state.json"
STATE_VERSION = 3

_TRAINER_STATE = "trainer_state.json"
_INDEX = ".index.json"
_MODEL_JSON = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_NUMBERED_SHARD = re.compile(r"-\d+-of-\d+\.")


def rank_file(index: int | str) -> str:
    """Returns the name of the file that the process of this index writes."""
    return f"dapo_rank_{index}.pt"


def damage(folder: Path) -> str | None:
    """
    Returns why a run cannot resume from a folder, such as "optimizer.pt is cut short", or `None` where it is whole.

    What `save_only_model` leaves out (optimizer, scheduler, RNG states) is missing only where a part of it is there.
    Where the state file has no number of processes, as in version 1, the files of the processes are not looked for.
    """
    for name in (STATE_FILE, _TRAINER_STATE):
        if not (folder / name).is_file():
            return f"{name} is missing"
    # A link to nothing is no file, so it counts as missing
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        if found := _file_damage(path):
            return f"{path.name} {found}"
    missing = next(_missing(folder, {path.name for path in files}), None)
    return None if missing is None else f"{missing} is missing"


def model_damage(folder: Path) -> str | None:
    """
    Returns which file of a saved model cannot be read, such as "model.safetensors is cut short", or `None`.

    Files that are of no model are not looked at; nor are weights in other formats than safetensors.
    """
    for path in sorted(folder.iterdir()):
        known = path.suffix == ".safetensors" or path.name in _MODEL_JSON or path.name.endswith(_INDEX)
        if path.is_file() and known and (found := _file_damage(path)):
            return f"{path.name} {found}"
        if path.name.endswith(_INDEX):
            shards = {str(shard) for shard in _json(path)["weight_map"].values()}
            if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
                return f"{missing[0]}, which {path.name} names, is missing"
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """
    Returns what [`write_state`] wrote.

    Raises:
        `ValueError`: Where the folder has no state file, so another trainer wrote it; where the file is not a JSON
            object; where its version is not the one that this code reads.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {STATE_FILE}: it was not written by DAPOTrainer but, for example, by TRL's GRPOTrainer, "
            "so its position in the data and in the rollout is unknown. Start anew from its weights: pass the folder "
            "as `model`, without `resume_from_checkpoint`."
        )
    if found := _file_damage(path):
        raise ValueError(f"{path} {found}. Resume from another checkpoint.")
    state = _json(path)
    version = state.get("version")
    if version != STATE_VERSION:
        newer = isinstance(version, int) and version > STATE_VERSION
        fix = "Upgrade trl_dapo." if newer else "Resume with the trl_dapo that wrote it."
        raise ValueError(f"{path} has version {version!r}, and this trl_dapo reads version {STATE_VERSION}. {fix}")
    return state


def clear(folder: Path) -> None:
    """Makes the folder, and removes from it what an earlier run left and a new save may not overwrite in full."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (_TRAINER_STATE, rank_file("*"), "rng_state*.pth"):
        for path in folder.glob(pattern):
            path.unlink()


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """
    Writes the state and its version into an existing folder, in one step: a kill leaves the old file or the new one.

    Raises:
        `TypeError`: Where the state is not JSON; nothing is written then.
    """
    text = json.dumps({**state, "version": STATE_VERSION})
    # Not `.json`: what a kill leaves of it must not count as a damaged file
    temporary = folder / f"{STATE_FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / STATE_FILE)


def newest_whole(output_dir: Path) -> tuple[Path | None, dict[str, str]]:
    """
    Returns the whole folder `checkpoint-<number>` of the highest number, or `None` where there is none, and of each
    newer one its damage, by folder name from the newest.
    """
    return _newest_whole(output_dir, below=math.inf)


def choose(requested: str | Path) -> tuple[Path, list[str]]:
    """
    Returns the folder to resume from when asked for one, and lines that say why it is another.

    It is the folder itself where it is whole, else the newest whole `checkpoint-<number>` of a lower number beside it.

    Raises:
        `FileNotFoundError`: Where there is no such folder.
        `ValueError`: Where the folder is another trainer's, see [`read_state`]: none of ours stands in for it. Where
            it is damaged and no older one beside it is whole.
    """
    folder = Path(requested)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {folder}.")
    found = damage(folder)
    if found is None:
        return folder, []
    if not (folder / STATE_FILE).is_file() and (folder / _TRAINER_STATE).is_file():
        read_state(folder)  # raises
    # Resolved, so that `.` and a link to the latest checkpoint have a number and neighbours
    resolved = folder.resolve()
    older, damages = _newest_whole(resolved.parent, below=_number(resolved) or 0)
    if older is None:
        raise ValueError(
            f"{folder} is not whole ({found}), and beside it is no whole checkpoint-<number> of a lower number. "
            "Resume from another checkpoint, or start anew without `resume_from_checkpoint`. With several nodes, "
            "`output_dir` must be on storage that all of them see."
        )
    damages = {resolved.name: found, **damages}
    return older, [f"{name} is not whole ({why}): resuming from {older.name}" for name, why in damages.items()]


def _number(folder: Path) -> int | None:
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def _newest_whole(output_dir: Path, below: float) -> tuple[Path | None, dict[str, str]]:
    numbered = [(_number(path), path) for path in output_dir.iterdir()] if output_dir.is_dir() else []
    damages: dict[str, str] = {}
    for _, folder in sorted(((n, path) for n, path in numbered if n is not None and n < below), reverse=True):
        found = damage(folder)
        if found is None:
            return folder, damages
        damages[folder.name] = found
    return None, damages


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _file_damage(path: Path) -> str | None:
    if path.suffix == ".json":
        return _json_damage(path)
    if path.suffix == ".safetensors":
        return _safetensors_damage(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        # A zip archive, as `torch.save` writes it, has its table of contents at the end
        try:
            zipfile.ZipFile(path).close()
        except zipfile.BadZipFile:
            return "is cut short"
    return None


def _json_damage(path: Path) -> str | None:
    try:
        content = _json(path)
    except ValueError:
        return "is not valid JSON"
    if path.name in (STATE_FILE, _TRAINER_STATE, *_MODEL_JSON) and not isinstance(content, dict):
        return "is not a JSON object"
    if path.name.endswith(_INDEX) and not (isinstance(content, dict) and isinstance(content.get("weight_map"), dict)):
        return "names no shards"
    return None


def _safetensors_damage(path: Path) -> str | None:
    """The format: 8 bytes that hold the header's length, the header in JSON, the tensors without a gap."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # Before reading: a damaged length may be one that no memory holds
        if 8 + length > size:
            return "is cut short"
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, LookupError, AttributeError):
            return "has no valid header"
    if size == expected:
        return None
    return "is cut short" if size < expected else "is longer than its header says"


def _missing(folder: Path, names: set[str]) -> Iterator[str]:
    """What is not there, though the state or a file that is there says that it was saved."""
    sub_folders = any(path.is_dir() for path in folder.iterdir())
    processes = _json(folder / STATE_FILE).get("processes")
    ranks = range(processes) if isinstance(processes, int) else ()
    yield from (rank_file(index) for index in ranks if rank_file(index) not in names)

    # The host leaves an optimizer that is not there as it is, and says nothing
    if any(name.startswith(("optimizer", "scheduler.", "rng_state")) for name in names):
        expected = ["rng_state.pth"] if processes == 1 else [f"rng_state_{index}.pth" for index in ranks]
        if not sub_folders:
            expected.append("scheduler.pt")
        yield from (name for name in expected if name not in names)
        if not (sub_folders or any(name.startswith("optimizer") for name in names)):
            yield "optimizer.pt"

    yield from _missing_weights(folder, names, sub_folders)


def _missing_weights(folder: Path, names: set[str], sub_folders: bool) -> Iterator[str]:
    indexes = [name for name in sorted(names) if name.endswith(_INDEX)]
    for index in indexes:
        shards = {str(shard) for shard in _json(folder / index)["weight_map"].values()}
        yield from sorted(shards - names)
    weights = [
        name
        for name in names
        if name.endswith((".safetensors", ".bin"))
        and not name.startswith(("optimizer", "training_args"))
        and not _NUMBERED_SHARD.search(name)
    ]
    if not (sub_folders or indexes or weights):
        yield "a file of weights"
    if any(name.startswith("adapter_model.") for name in names) and "adapter_config.json" not in names:
        yield "adapter_config.json"
