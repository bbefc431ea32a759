"""
An adapter in a folder for as long as an engine reads it, and what tells it from the adapter before.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file


@contextmanager
def saved_adapter(model: PeftModel, name: str) -> Generator[str]:
    """
    Gives a folder with one adapter of a model, in PEFT's format; afterwards it is gone.

    The folder gets its name once all is written. Other adapters of the model are not in it.

    Raises:
        `RuntimeError`: If it cannot be written, with the folder and how much it takes.
    """
    weights = _weights(model, name)
    with ExitStack() as stack:
        try:
            parent = stack.enter_context(tempfile.TemporaryDirectory(prefix="trl-dapo-adapter-"))
            folder = _write(model, name, weights, Path(parent))
        except (OSError, SafetensorError) as error:
            size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
            raise RuntimeError(
                f"The adapter for vLLM, {size / 2**20:.1f} MiB, cannot be written to a temporary folder: {error}. Set "
                "the environment variable TMPDIR to a folder that can be written and has room."
            ) from error
        yield folder


def adapter_version(model: PeftModel, name: str) -> tuple[float, ...]:
    """Returns numbers that differ where an adapter's weights do: each tensor's sum and norm, in float64."""
    with torch.no_grad():
        found = [
            number
            for tensor in _weights(model, name).values()
            for number in (tensor.sum(dtype=torch.float64), torch.linalg.vector_norm(tensor, dtype=torch.float64))
        ]
        return tuple(torch.stack(found).tolist())


def _weights(model: PeftModel, name: str) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


def _write(model: PeftModel, name: str, weights: dict[str, torch.Tensor], parent: Path) -> str:
    unfinished, folder = parent / "unfinished", parent / "adapter"
    unfinished.mkdir()
    save_file(
        {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()},
        unfinished / "adapter_model.safetensors",
    )
    model.peft_config[name].save_pretrained(str(unfinished))
    os.replace(unfinished, folder)
    return str(folder)
