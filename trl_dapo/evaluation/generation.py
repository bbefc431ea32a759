"""
Samples completions with transformers. `vllm` does the same with vLLM, and the callback with a trainer's own path.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from ..host.modes import eval_mode
from ..host.own_generation import sampling_fields
from ..host.swapped import swapped
from .samples import Completion
from .settings import Protocol as Sampling


class Sampler(Protocol):
    """What samples a batch of completions."""

    def sample(self, prompts: list[Any], seeds: Sequence[int]) -> list[Completion]:
        """Returns a completion for each prompt. A draw is a function of the batch and its seeds."""
        ...


class SamplingError(ValueError):
    """Prompts or settings that cannot be sampled with. Its text is one line."""


@dataclass(frozen=True)
class Text:
    """
    How prompts become tokens and tokens text, as in TRL's trainers.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The policy's tokenizer.
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Further arguments of the chat template.
    """

    tokenizer: Any
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def encode(self, prompts: list[Any]) -> list[list[int]]:
        """
        Returns the tokens of prompts: texts as they are, messages through the chat template.

        Raises:
            [`SamplingError`]: If there is no chat template, or it refuses the messages, or the tokenizer a text.
        """
        if isinstance(prompts[0], str):
            return self._encode_texts(prompts)
        if not getattr(self.tokenizer, "chat_template", None):
            raise SamplingError(
                "prompt: the problems are messages, and the model's tokenizer has no chat template. Give a model that "
                "was trained to chat, or problems whose prompts are plain text."
            )
        try:
            encoded = self.tokenizer.apply_chat_template(
                conversation=prompts,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                **self.chat_template_kwargs,
            )
        except TemplateError as error:
            said = " ".join(str(error).split())
            raise SamplingError(f"prompt: the model's chat template refuses the messages: {said}") from error
        return encoded["input_ids"]

    def _encode_texts(self, prompts: list[str]) -> list[list[int]]:
        try:
            return self.tokenizer(text=prompts)["input_ids"]
        except Exception as error:
            # The tokenizers library raises this very class where a vocabulary has no token for what it does not know
            said = " ".join(str(error).split())
            raise SamplingError(
                f"prompt: the model's tokenizer cannot read the prompts, such as {prompts[0][:80]!r}: {said}"
            ) from error

    def completion(self, ids: list[int], prompt: Any, truncated: bool, seed: int) -> Completion:
        """Returns the completion that tokens stand for, as a message where its prompt is messages."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        message = None if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        return Completion(text, ids, truncated, seed, message)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Returns all tokens that end a completion: those of the model's generation config, and the tokenizer's."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = [found] if isinstance(found, int) else list(found or [])
    own = tokenizer.eos_token_id
    return ends if own in ends or own is None else [own, *ends]


class TransformersSampler:
    """
    Samples with `generate`.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy.
        text ([`Text`]):
            Its tokenizer.
        sampling ([`Protocol`]):
            How is sampled.
    """

    def __init__(self, model: Any, text: Text, sampling: Sampling) -> None:
        self._model, self._text = model, text
        self._ends = end_tokens(model, text.tokenizer)
        pad = text.tokenizer.pad_token_id
        if pad is None:
            pad = self._ends[0] if self._ends else 0
        self._pad = pad
        self._config = GenerationConfig(
            **sampling_fields(sampling.temperature, sampling.top_p, sampling.max_new_tokens),
            eos_token_id=self._ends or None,
            pad_token_id=pad,
            bos_token_id=text.tokenizer.bos_token_id,
        )

    @torch.no_grad()
    def sample(self, prompts: list[Any], seeds: Sequence[int]) -> list[Completion]:
        """Returns a completion for each prompt; the whole batch is drawn with its first seed."""
        ids = self._text.encode(prompts)
        with eval_mode(self._model), _own_config(self._model, self._config), torch.random.fork_rng():
            torch.manual_seed(seeds[0])
            try:
                found = self._model.generate(**self._padded(ids), generation_config=self._config)
            except torch.OutOfMemoryError as error:
                raise SamplingError(
                    f"batch_size: {len(prompts)} completions at once do not fit into the memory of "
                    f"{self._model.device}. Set a smaller batch_size or max_new_tokens."
                ) from error
        width = max(map(len, ids))
        cut = [self._cut(row) for row in found[:, width:].tolist()]
        return [
            self._text.completion(row, prompt, not ended, seeds[0])
            for (row, ended), prompt in zip(cut, prompts, strict=True)
        ]

    def _padded(self, ids: list[list[int]]) -> dict[str, torch.Tensor]:
        width = max(map(len, ids))
        padded = [[self._pad] * (width - len(row)) + row for row in ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
        device = self._model.device
        return {"input_ids": torch.tensor(padded, device=device), "attention_mask": torch.tensor(mask, device=device)}

    def _cut(self, row: list[int]) -> tuple[list[int], bool]:
        """Returns a row up to its first end token, and whether there is one."""
        end = next((position for position, token in enumerate(row) if token in self._ends), None)
        return (row, False) if end is None else (row[: end + 1], True)


def _own_config(model: Any, config: GenerationConfig) -> AbstractContextManager[None]:
    """Swaps the model's generation config: what the given one leaves open would be taken from there."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(base, "generation_config"):
        return nullcontext()
    return swapped(base, generation_config=config)
