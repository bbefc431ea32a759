"""
What every reward model does with prompts and completions: token ids as in its training, and rewards chunk by chunk.

The forward pass itself is the caller's, because a model of its own and an adapter on the policy's base run
differently.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..host.messages import tools_of
from ..packing.bins import chunks


Text = str | list[dict[str, Any]]


@dataclass(frozen=True)
class PaddedRows:
    """
    Rows padded on the right to the longest of them.

    Attributes:
        input_ids (`torch.Tensor`):
            Token ids, shape `(B, T)`.
        attention_mask (`torch.Tensor`):
            1 on the row's own tokens, 0 on padding, shape `(B, T)`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


def rows_of_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: list[Text], completions: list[Text], called: str, columns: Mapping
) -> list[list[int]]:
    """
    Returns what a reward model reads of each row, see [`token_ids`].

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The reward model's.
        prompts (`list`):
            Text or messages.
        completions (`list`):
            Of the same kinds.
        called (`str`):
            What the error calls the reward model.
        columns (`Mapping[str, list]`):
            Further columns, of which `tools` and `chat_template_kwargs` are read, as in training.

    Raises:
        `ValueError`: See [`token_ids`]; the message names the row.
    """
    read = {name: columns[name] for name in ("tools", "chat_template_kwargs") if isinstance(columns.get(name), list)}
    result = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        arguments = tools_of({name: values[row] for name, values in read.items()})
        result.append(token_ids(tokenizer, prompt, completion, called, row, arguments))
    return result


def token_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    completion: Text,
    called: str,
    row: int = 0,
    arguments: Mapping[str, Any] | None = None,
) -> list[int]:
    """
    Returns what a reward model reads of a row, put together as [`RewardTrainer`] does it.

    That is the chat template over prompt and completion, or their text with an end token, if it has none yet.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The reward model's.
        prompt (`str` or `list[dict[str, Any]]`):
            Text or messages.
        completion (`str` or `list[dict[str, Any]]`):
            Of the same kind.
        called (`str`):
            What the error calls the reward model.
        row (`int`, *optional*, defaults to `0`):
            Number of the row, for the error.
        arguments (`Mapping[str, Any]`, *optional*):
            Of the chat template, such as `tools`.

    Raises:
        `ValueError`: If prompt and completion are not of one kind, or messages meet a tokenizer without a chat
            template.
    """
    kinds = [str if isinstance(one, str) else list if isinstance(one, list) else None for one in (prompt, completion)]
    if None in kinds or kinds[0] is not kinds[1]:
        raise ValueError(
            f"Row {row} of a batch for {called}: the prompt is a {type(prompt).__name__} and the completion a "
            f"{type(completion).__name__}. Both must be text, or both lists of messages, as in its training."
        )
    if isinstance(prompt, list) and isinstance(completion, list):
        if tokenizer.chat_template is None:
            raise ValueError(
                f"The completions are messages, and the tokenizer of {called} has no chat template. Pass one that "
                "has as `processing_class`."
            )
        encoded: Any = tokenizer.apply_chat_template(
            [*prompt, *completion], tokenize=True, return_dict=True, **(arguments or {})
        )
        return encoded["input_ids"]
    text, end = f"{prompt}{completion}", str(tokenizer.eos_token or "")
    return tokenizer(text if text.endswith(end) else text + end)["input_ids"]


def padding_id(tokenizer: Any) -> int:
    """Returns the token id to pad with: the tokenizer's padding token, else its end token."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def padded(rows: list[list[int]], pad_id: int, device: torch.device) -> PaddedRows:
    """Returns the token ids of rows as tensors on a device."""
    longest = max(map(len, rows))
    # On the right: the causal mask alone keeps a row's last token from seeing padding
    return PaddedRows(
        torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=device),
        torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device),
    )


def rewards_in_chunks(
    rows: list[list[int]], rows_at_once: int, forward: Callable[[list[list[int]]], torch.Tensor]
) -> torch.Tensor:
    """
    Returns the rewards of rows, shape `(B,)`, float64 on the CPU. Rows of similar length are scored together.

    Args:
        rows (`list[list[int]]`):
            Token ids of each row.
        rows_at_once (`int`):
            Rows that go through the model together.
        forward (`Callable`):
            Returns the rewards of some rows, in order, shape `(rows,)`.
    """
    rewards_B = torch.empty(len(rows), dtype=torch.float64)
    for chunk in chunks([len(row) for row in rows], rows_at_once):
        rewards_B[chunk] = forward([rows[row] for row in chunk]).double().cpu()
    return rewards_B
