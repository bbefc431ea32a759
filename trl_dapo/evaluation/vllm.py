"""
Samples completions with vLLM, which is imported when a sampler is made.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..host.adapter_folders import adapter_config
from .generation import SamplingError, Text
from .samples import Completion
from .settings import Protocol as Sampling


MISSING = "use_vllm=True needs vLLM, which is not installed: pip install 'trl-dapo[vllm]', or leave it out."


class VLLMSampler:
    """
    Samples with vLLM. Each completion has a seed of its own, so the draws do not depend on the batch.

    Args:
        model (`str`):
            Folder or name on the Hub of the policy, or of an adapter's base.
        text ([`Text`]):
            Its tokenizer.
        sampling ([`Protocol`]):
            How is sampled.
        ends (`Sequence[int]`):
            Tokens that end a completion.
        adapter (`str`, *optional*):
            Folder of a LoRA adapter on the base.
        engine (`dict[str, Any]`, *optional*):
            Further arguments of `vllm.LLM`.

    Raises:
        [`SamplingError`]: If vLLM is not installed.
    """

    def __init__(
        self,
        model: str,
        text: Text,
        sampling: Sampling,
        ends: Sequence[int],
        adapter: str | None = None,
        engine: dict[str, Any] | None = None,
    ) -> None:
        vllm = _import_vllm()
        self._text, self._sampling, self._ends = text, sampling, list(ends)
        self._params = vllm.SamplingParams
        arguments: dict[str, Any] = {"seed": sampling.seed, **(engine or {})}
        self._request: dict[str, Any] = {}
        if adapter is not None:
            arguments |= {"enable_lora": True, "max_lora_rank": _rank(adapter)}
            request = importlib.import_module("vllm.lora.request").LoRARequest
            self._request = {"lora_request": request("policy", 1, str(Path(adapter)))}
        self._engine = vllm.LLM(model=model, **arguments)

    def sample(self, prompts: list[Any], seeds: Sequence[int]) -> list[Completion]:
        """Returns a completion for each prompt, drawn with its own seed."""
        ids = self._text.encode(prompts)
        found = self._engine.generate(
            [{"prompt_token_ids": row} for row in ids],
            sampling_params=[self._parameters(seed) for seed in seeds],
            use_tqdm=False,
            **self._request,
        )
        return [
            self._text.completion(list(one.outputs[0].token_ids), prompt, one.outputs[0].finish_reason != "stop", seed)
            for one, prompt, seed in zip(found, prompts, seeds, strict=True)
        ]

    def _parameters(self, seed: int) -> Any:
        return self._params(
            n=1,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=self._sampling.max_new_tokens,
            stop_token_ids=self._ends,
            seed=seed,
        )


def check_vllm() -> None:
    """Raises [`SamplingError`] if vLLM is not installed; it is not imported."""
    if importlib.util.find_spec("vllm") is None:
        raise SamplingError(MISSING)


def _import_vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise SamplingError(MISSING) from error


def _rank(adapter: str) -> int:
    config: Any = adapter_config(adapter)
    if not hasattr(config, "r"):
        raise SamplingError(
            f"model_name_or_path={adapter} is an adapter of type {config.peft_type!s}, and vLLM loads LoRA alone. "
            "Leave out use_vllm, or merge it into its base."
        )
    # vLLM takes powers of 2 from 8 on
    return max(8, 1 << (config.r - 1).bit_length())
