"""
An engine that holds a dense model, and gets all weights of the policy at each sync: for models of up to 3B.
"""

from collections.abc import Generator
from typing import Any

import torch
from accelerate.logging import get_logger

from .dense_weights import dense_weights
from .engine_settings import EngineSettings, check_original
from .saved_adapter import adapter_version
from .servable import check_addable, policy_adapter


logger = get_logger(__name__)

LARGE = 3_000_000_000


class DenseSync:
    """
    Sends an engine `W + s B A` of every layer, in 16 bits, or in float32 where the model is stored so.

    Args:
        model ([`~peft.PeftModel`]):
            The trained model; it is only read.
        settings ([`EngineSettings`]):
            Not used: the engine holds what it is sent.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the model's folder may bring code.

    Raises:
        `ValueError`: If the adapter is none that can be added, or the base is stored quantized.
    """

    # All weights come back with the next sync
    sleep_level: int | None = None

    def __init__(self, model: Any, settings: EngineSettings, trust_remote_code: bool = False) -> None:
        self._model = model
        self._name = policy_adapter(model, "dense")
        check_addable(model, self._name)
        check_original(model.name_or_path, "vllm_sync='dense'", trust_remote_code)
        self._dtype = stored_dtype(model)
        size = model.get_base_model().num_parameters()
        if size > LARGE:
            logger.warning(
                f"vllm_sync='dense' holds {size / 1e9:.1f}B parameters in vLLM besides the trainer's, "
                f"{size * self._dtype.itemsize / 2**30:.1f} GiB. Above 3B, vllm_sync='adapter' takes less."
            )

    def engine_arguments(self) -> dict[str, Any]:
        """Returns arguments of `vllm.LLM`."""
        # The host sees the trainer's 4-bit layers, and would have the engine quantize
        return {"quantization": None, "load_format": "auto"}

    def version(self) -> tuple[float, ...]:
        """Returns numbers that change with the adapter; the base does not."""
        return adapter_version(self._model, self._name)

    def weights(self) -> Generator[tuple[str, torch.Tensor]]:
        """Gives the weights that the engine is to have, by name."""
        yield from dense_weights(self._model, self._name, self._dtype)


def stored_dtype(model: Any) -> torch.dtype:
    """Returns the dtype of a model's weights that are not quantized."""
    kinds = [p.dtype for n, p in model.named_parameters() if p.is_floating_point() and not p.requires_grad]
    return kinds[0] if kinds else torch.bfloat16
