"""
What is in a folder already where a model is saved, and whose it is.

Libraries choose among the weights of a folder by rules of their own: an adapter before a whole model, a single file
before shards, safetensors before pickles. A model saved beside an older one of another kind is then not the one that
is loaded. And where a folder is that of the model which training started from, saving destroys it.
"""

import fnmatch
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from peft import PeftModel


logger = get_logger(__name__)

# The underscore keeps it out of what is pushed to the Hub
EARLIER_FILES = "_earlier-files"

WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "base_quantization.json",
    "reward_statistics.json",
)
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)


def check_output_folder(output_dir: Any, sources: dict[str, Any]) -> None:
    """
    Raises `ValueError` where a run would save over a model that it starts from.

    Args:
        output_dir (`str`):
            Where the run saves.
        sources (`dict[str, Any]`):
            Names of arguments, with models, names of models, or lists of both.
    """
    for name, source in sources.items():
        if taken := next((one for one in folders_of(source) if is_same(one, output_dir)), None):
            raise ValueError(
                f"output_dir={str(output_dir)!r} is the folder of `{name}` ({taken}), which would be overwritten. "
                "Name another folder as `output_dir`."
            )


def folders_of(source: Any) -> list[str]:
    """Returns the folders that models, by name or loaded, come from; adapters and their bases are two."""
    if isinstance(source, (list, tuple)):
        return [folder for one in source for folder in folders_of(one)]
    names: list[Any] = [source] if isinstance(source, (str, Path)) else list(getattr(source, "folders", ()))
    names.append(getattr(getattr(source, "config", None), "_name_or_path", None))
    if isinstance(source, PeftModel):
        names += [config.base_model_name_or_path for config in source.peft_config.values()]
    return [str(name) for name in names if name and Path(str(name)).is_dir()]


def is_same(folder: Any, other: Any) -> bool:
    """Returns whether two paths are one folder, links followed."""
    return other is not None and os.path.realpath(str(folder)) == os.path.realpath(str(other))


def saved_instead_of(asked: str, sources: Iterable[str]) -> str:
    """Returns where a model is saved: where it was asked, unless that is a folder that training started from."""
    if not any(is_same(one, asked) for one in sources):
        return asked
    instead = f"{asked.rstrip('/')}-trained"
    logger.warning(f"{asked} holds the model that training started from. The trained one is saved to {instead}.")
    return instead


def patterns_of(adapter: bool, tokenizer: bool, own_files: Iterable[str]) -> list[str]:
    """
    Returns the names of files that must not be left from an earlier model.

    Args:
        adapter (`bool`):
            Whether an adapter is saved: then the config of a whole model is another's.
        tokenizer (`bool`):
            Whether a tokenizer is saved.
        own_files (`Iterable[str]`):
            Files that the trainer writes itself.
    """
    own = set(own_files)
    weights = [name for name in WEIGHTS if name not in own]
    return [*weights, *(["config.json"] if adapter else []), *(TOKENIZER if tokenizer else ())]


@contextmanager
def nothing_stale(folder: Path, patterns: Iterable[str]) -> Generator[None]:
    """
    Sets aside the files of a folder that are not written anew while it is entered, and logs their names.

    Args:
        folder (`Path`):
            Folder to be written to.
        patterns (`Iterable[str]`):
            Names of files that must not be left from an earlier model.
    """
    present = [one.name for one in folder.iterdir() if one.is_file()] if folder.is_dir() else []
    names = [name for name in present if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    aside = _unused(folder / EARLIER_FILES)
    if names:
        aside.mkdir()
    for name in names:
        (folder / name).rename(aside / name)
    try:
        yield
    except BaseException:
        for name in names:
            (aside / name).replace(folder / name)
        if names:
            aside.rmdir()
        raise
    for name in names:
        if (folder / name).exists():
            (aside / name).unlink()
    stale = sorted(one.name for one in aside.iterdir()) if names else []
    if stale:
        logger.warning(f"{folder} held another model ({', '.join(stale)}). These files are now in {aside}.")
    elif names:
        aside.rmdir()


def _unused(path: Path) -> Path:
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
