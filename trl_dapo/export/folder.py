"""
Writing a merged model: a folder that is there whole, or not at all.
"""

import os
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError


# Tokenizer, configs, and what a file system keeps for itself
BESIDE_WEIGHTS = 32 * 2**20
SHARD = "4GB"


def check_target(target: Path) -> None:
    """Raises `ValueError` where a folder is not free to be written."""
    if target.is_dir():
        if any(target.iterdir()):
            raise ValueError(f"--to {target}: the folder is not empty. Name another one, or remove it.")
    elif target.exists():
        raise ValueError(f"--to {target}: there is a file of that name. Name another folder.")
    parent = next(one for one in target.absolute().parents if one.exists())
    if not parent.is_dir():
        raise ValueError(f"--to {target}: {parent} is a file, and no folder can be made in it.")
    # An empty target is replaced, so what counts is the folder that it is in
    place = target.resolve().parent if target.is_dir() else parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--to {target}: nothing can be written to {place}. Name a folder elsewhere.")


def bytes_to_write(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Returns the bytes of a model that is stored as `dtype`; weights that are used twice count once."""
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize + BESIDE_WEIGHTS


def check_space(target: Path, needed: int, dtype: str) -> None:
    """Raises `ValueError` where the disk has too little room for the bytes of a model that is stored as `dtype`."""
    parent = next(one for one in target.absolute().parents if one.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        smaller = ", or store it as bfloat16 (--dtype bfloat16)" if dtype == "float32" else ""
        raise ValueError(
            f"--to {target}: the merged model takes {needed / 2**30:.2f} GiB as {dtype}, and {free / 2**30:.2f} GiB "
            f"are free there. Name a folder on another disk{smaller}."
        )


@contextmanager
def whole_folder(target: Path) -> Generator[Path]:
    """Gives a folder beside the target to write to, which takes the target's place once all is written."""
    target = target.resolve()  # a link stays, and what it leads to is written
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a merge that was killed
    try:
        part.mkdir()
        yield part
        if target.is_dir():
            target.rmdir()  # empty, or this fails
        part.replace(target)
    except SafetensorError as error:
        # It has no number of its own for a disk that is full
        raise OSError(f"--to {target}: {error}. Nothing was left there.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_merged(model: Any, tokenizer: Any, card: str, dtype: str, target: Path) -> None:
    """
    Writes a merged model: safetensors, configs, tokenizer with its chat template, and a model card.

    Args:
        model ([`~peft.PeftModel`]):
            With its layers merged.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Saved beside it.
        card (`str`):
            Text of the model card.
        dtype (`str`):
            What the weights are stored as.
        target (`Path`):
            The folder.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        plain = model.merge_and_unload().to(getattr(torch, dtype))
    with whole_folder(target) as folder:
        plain.save_pretrained(folder, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
