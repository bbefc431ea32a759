"""
Whether a checkpoint folder is whole, and which folder a run resumes from after it was killed, at whatever moment.

Only file lengths, headers and JSON are read, never a tensor. A save removes an old `trainer_state.json` first, and TRL
writes the new one last. A folder is therefore whole if that file is there, every other file has its full length, and
no file is missing that the others call for.

Checkpoints of the online trainers have a state file of this package, [`STATE_FILE`]. Those of the trainers of
preferences (`online=False`) have what transformers writes and nothing else.

Subfolders, in which FSDP and DeepSpeed keep their shards, are not looked into. All processes must write into the same
folder.
"""

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


STATE_FILE = "dapo_state.json"
STATE_VERSION = 3
# The folder below a checkpoint with a reference model that has moved
REFERENCE_FOLDER = "reference"

_TRAINER_STATE = "trainer_state.json"
_INDEX = ".index.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_NUMBERED_SHARD = re.compile(r"-\d+-of-\d+\.")
_RNG_OF_PROCESS = re.compile(r"rng_state_(\d+)\.pth")


def rank_file(index: int | str) -> str:
    """Returns the name of the file that the process with this index writes."""
    return f"dapo_rank_{index}.pt"


def damage(folder: Path, online: bool = True) -> str | None:
    """
    Returns why a run cannot resume from a folder, such as "optimizer.pt is cut short", or `None` if it is whole.

    Optimizer, scheduler and RNG states, which `save_only_model` leaves out, count as missing only if some of them are
    there.
    """
    for name in (STATE_FILE, _TRAINER_STATE) if online else (_TRAINER_STATE,):
        if not (folder / name).is_file():
            return f"{name} is missing"
    # A dangling link is no file, so it counts as missing
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in [*files, *sorted((folder / REFERENCE_FOLDER).glob("*"))]:
        if found := _file_damage(path):
            return f"{path.relative_to(folder)} {found}"
    processes = _json(folder / STATE_FILE).get("processes") if online else _processes({path.name for path in files})
    if not isinstance(processes, int):
        return f"{STATE_FILE} names no number of processes"
    missing = next(_missing(folder, {path.name for path in files}, processes, online), None)
    return None if missing is None else f"{missing} is missing"


def read_state(folder: Path) -> dict[str, Any]:
    """
    Returns what [`write_state`] wrote.

    Raises:
        `ValueError`: If the folder has no state file, so that another trainer wrote it; if the file is not a JSON
            object; if its version is not the one that this code reads.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {STATE_FILE}: it was not written by DAPOTrainer but, for example, by TRL's GRPOTrainer, "
            "so its position in the data and in the rollout is unknown. Start a new run from its weights: pass the "
            "folder as `model`, without `resume_from_checkpoint`."
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
    """Creates the folder, and removes files of an earlier save that a new one might not overwrite."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (_TRAINER_STATE, rank_file("*"), "rng_state*.pth"):
        for path in folder.glob(pattern):
            path.unlink()


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """
    Writes the state and its version into an existing folder, atomically: a kill leaves the old file or the new one.

    Raises:
        `TypeError`: If the state is not JSON. Nothing is written then.
    """
    text = json.dumps({**state, "version": STATE_VERSION})
    # Not named `.json`: if a kill leaves half of it behind, it must not count as a damaged file
    temporary = folder / f"{STATE_FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / STATE_FILE)


def is_finished(folder: Path) -> bool:
    """Returns whether a checkpoint was ever written to its end; what was damaged later was."""
    path = folder / _TRAINER_STATE
    return path.is_file() and _file_damage(path) is None


def numbered(output_dir: Path) -> list[Path]:
    """Returns the folders `checkpoint-<number>` in a folder, from the highest number down."""
    if not output_dir.is_dir():
        return []
    found = {path: number for path in output_dir.iterdir() if (number := _number(path)) is not None}
    return sorted(found, key=lambda path: found[path], reverse=True)


def choose(requested: str | Path, online: bool = True) -> tuple[Path, list[str]]:
    """
    Returns the folder to resume from, and, if that is not the requested one, lines that say why.

    A whole folder is returned as it is. For a damaged one, it is the newest whole `checkpoint-<number>` beside it with
    a lower number.

    Raises:
        `FileNotFoundError`: If there is no such folder.
        `ValueError`: If the folder is another trainer's, see [`read_state`], which none of ours can replace; if it is
            damaged and no older one beside it is whole.
    """
    folder = Path(requested)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {folder}.")
    found = damage(folder, online)
    if found is None:
        return folder, []
    if online and not (folder / STATE_FILE).is_file() and (folder / _TRAINER_STATE).is_file():
        read_state(folder)  # raises
    # Resolved, because `.` and a link to the latest checkpoint have neither a number nor neighbours
    resolved = folder.resolve()
    older, damages = _newest_whole(resolved.parent, _number(resolved) or 0, online)
    if older is None:
        raise ValueError(
            f"{folder} is not whole ({found}), and there is no whole checkpoint-<number> with a lower number beside "
            "it. Resume from another checkpoint, or start a new run without `resume_from_checkpoint`. With several "
            "nodes, `output_dir` must be on storage that all of them see."
        )
    damages = {resolved.name: found, **damages}
    return older, [f"{name} is not whole ({why}): resuming from {older.name}" for name, why in damages.items()]


def _number(folder: Path) -> int | None:
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def _newest_whole(output_dir: Path, below: int, online: bool) -> tuple[Path | None, dict[str, str]]:
    damages: dict[str, str] = {}
    for folder in numbered(output_dir):
        if int(_number(folder) or 0) >= below:
            continue
        found = damage(folder, online)
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
        # `torch.save` writes a zip archive, which has its table of contents at the end
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
    if path.name in (STATE_FILE, _TRAINER_STATE) and not isinstance(content, dict):
        return "is not a JSON object"
    if path.name.endswith(_INDEX) and not (isinstance(content, dict) and isinstance(content.get("weight_map"), dict)):
        return "names no shards"
    return None


def _safetensors_damage(path: Path) -> str | None:
    try:
        # Opening reads the header and compares the file's length with it; no tensor is loaded
        with safe_open(path, framework="numpy"):
            return None
    except SafetensorError as error:
        return f"is cut short or damaged ({str(error).removeprefix('Error while deserializing header: ')})"


def _missing(folder: Path, names: set[str], processes: int, online: bool) -> Iterator[str]:
    """Files that are missing, although the state or another file shows that they were saved."""
    sub_folders = any(path.is_dir() and path.name != REFERENCE_FOLDER for path in folder.iterdir())
    ranks = range(processes)
    if online:
        yield from (rank_file(index) for index in ranks if rank_file(index) not in names)

    # Without an optimizer file the host resumes with a fresh optimizer, and does not say so
    if any(name.startswith(("optimizer", "scheduler.", "rng_state")) for name in names):
        expected = ["rng_state.pth"] if processes == 1 else [f"rng_state_{index}.pth" for index in ranks]
        if not sub_folders:
            expected.append("scheduler.pt")
        yield from (name for name in expected if name not in names)
        if not (sub_folders or any(name.startswith("optimizer") for name in names)):
            yield "optimizer.pt"

    yield from _missing_weights(folder, names, sub_folders)


def _processes(names: set[str]) -> int:
    """How many processes wrote a checkpoint that does not say so, by the files of random numbers that are there."""
    return 1 + max((int(match[1]) for name in names if (match := _RNG_OF_PROCESS.fullmatch(name))), default=0)


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
