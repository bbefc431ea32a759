"""
An engine that holds the base itself, and gets the adapter at each sync.
"""

import importlib
from typing import Any

from .engine_settings import EngineSettings, check_original, check_same_quantization
from .saved_adapter import adapter_version, saved_adapter
from .servable import check_servable, policy_adapter


ADAPTER_ID = 1


class AdapterSync:
    """
    Sends an engine the policy's adapter. The base of neither side is touched.

    Args:
        model ([`~peft.PeftModel`]):
            The trained model; other adapters, such as a critic's, are never sent.
        settings ([`EngineSettings`]):
            How the engine holds the base.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the model's folder may bring code.

    Raises:
        `ValueError`: If the adapter or the base is one that the engine cannot have.
    """

    # Level 2 discards a base that no adapter can bring back
    sleep_level = 1

    def __init__(self, model: Any, settings: EngineSettings, trust_remote_code: bool = False) -> None:
        self._model = model
        self._name = policy_adapter(model, "adapter")
        self._rank = check_servable(model, self._name)
        self._in_4bit = settings.base_of(model) == "4bit"
        if self._in_4bit:
            check_same_quantization(model)
        else:
            check_original(model.name_or_path, "vllm_base='16bit'", trust_remote_code)

    def engine_arguments(self) -> dict[str, Any]:
        """Returns arguments of `vllm.LLM`."""
        kind = "bitsandbytes" if self._in_4bit else None
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": self._rank,
            "quantization": kind,
            "load_format": kind or "auto",
        }

    def version(self) -> tuple[float, ...]:
        """Returns numbers that change with the adapter."""
        return adapter_version(self._model, self._name)

    def load(self, llm_engine: Any) -> Any:
        """
        Has an engine load the adapter as it is now, and returns the request that asks for it.

        Raises:
            `RuntimeError`: If the engine says that it did not.
        """
        request = importlib.import_module("vllm.lora.request").LoRARequest
        with saved_adapter(self._model, self._name) as folder:
            # The id is that of the adapter before, so that it is replaced
            if not llm_engine.add_lora(request("policy", ADAPTER_ID, folder, load_inplace=True)):
                raise RuntimeError("vLLM did not load the adapter: `add_lora` returned False.")
            # With `load_inplace`, each request would read the folder again, which is gone by then
            return request("policy", ADAPTER_ID, folder)
