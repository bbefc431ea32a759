"""
Whether prompts go through the chat template, where the tokenizer has one.
"""

from typing import Any

from datasets import Dataset


PLAIN = "prompts/share_plain"
ROWS = 64


def share_plain(dataset: Any, tokenizer: Any) -> float | None:
    """
    Returns the share of prompts that are plain text although the tokenizer has a chat template.

    0 where it has none. A text with one of the tokenizer's special tokens in it went through a template already.
    `None` where that cannot be told without disturbing the run: for data that is streamed or transformed when read.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a `prompt`, or what stands in for them in the loader; a few of them are read, evenly.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`):
            The trainer's.
    """
    # What the loader reads may stand in for what is trained on
    dataset = getattr(dataset, "stands_for", dataset)
    # A transform may draw random numbers
    if not isinstance(dataset, Dataset) or dataset.format["type"] is not None or "prompt" not in dataset.column_names:
        return None
    rows = range(0, len(dataset), max(1, len(dataset) // ROWS))
    prompts = [dataset[row]["prompt"] for row in rows]
    if not prompts:
        return None
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if not (getattr(tokenizer, "chat_template", None) or getattr(inner, "chat_template", None)):
        return 0.0
    marks = [token for token in getattr(inner, "all_special_tokens", []) if token]
    plain = [isinstance(one, str) and not any(mark in one for mark in marks) for one in prompts]
    return sum(plain) / len(plain)
