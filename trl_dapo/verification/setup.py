"""
What a run is made of, as far as it can be known without a model: settings, reward functions, rows and tokenizer.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from datasets import Dataset

from ..dapo.raw_metric import answer_columns, metric_columns


# Rows that are read for copies and missing answers; of a stream, the first few
ROWS_READ = 20000
STREAM_ROWS = 256

# As DAPO's by default
TOLERANCE = 1e-6

ONLINE = ("dapo", "grpo", "ppo")


@dataclass(frozen=True)
class EndTokens:
    """
    Token ids that may end a completion, by who says so.

    Args:
        said (`Mapping[str, frozenset[int]]`):
            `"tokenizer"`, and with a model `"config"` and `"generation_config"`.
        generation (`frozenset[int]`):
            Those at which generation stops.
        pad (`int`, *optional*):
            The padding token.
    """

    said: Mapping[str, frozenset[int]]
    generation: frozenset[int]
    pad: int | None


@dataclass(frozen=True)
class Sample:
    """
    Rows of a dataset.

    Args:
        rows (`list[dict[str, Any]]`):
            All of them, or a draw without replacement in the order of the dataset.
        total (`int`, *optional*):
            Rows of the dataset; `None` for a stream.
        missing (`str`, *optional*):
            Why there are none.
    """

    rows: list[dict[str, Any]]
    total: int | None
    missing: str = "there are no rows: an environment makes up the prompts"


def sample_rows(dataset: Any, most: int = ROWS_READ) -> Sample:
    """Returns rows of a dataset: all, or a draw that depends on nothing but the sizes. A stream gives its first."""
    if dataset is None:
        return Sample([], 0)
    if not isinstance(dataset, Dataset):
        return Sample(list(islice(iter(dataset), STREAM_ROWS)), None)
    total = len(dataset)
    if {"image", "images"} & set(dataset.column_names):
        most = min(most, STREAM_ROWS)  # each is decoded
    if total <= most:
        return Sample(list(dataset), total)
    # Copies of a whole dataset, one behind the other, are not seen in its beginning
    chosen = sorted(random.Random(0).sample(range(total), most))
    return Sample(list(dataset.select(chosen)), total)


@dataclass(frozen=True)
class Setup:
    """
    A run, without its model.

    Args:
        kind (`str`):
            `"dapo"`, `"grpo"`, `"ppo"`, `"dpo"` or `"reward"`.
        args (`Any`):
            Its config.
        sample ([`Sample`]):
            Rows that it trains on.
        functions (`list`):
            Reward functions, without a length penalty that the trainer adds.
        names (`list[str]`):
            Their names, as TRL logs them.
        weights (`list[float]`):
            Their weights.
        tokenizer (`Any`, *optional*):
            The tokenizer.
        no_tokenizer (`str`, *optional*):
            Why there is none.
        ends ([`EndTokens`], *optional*):
            Where the tokenizer is known.
        context (`int`, *optional*):
            Tokens that the model has positions for.
    """

    kind: str
    args: Any
    sample: Sample
    functions: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tokenizer: Any = None
    no_tokenizer: str = ""
    ends: EndTokens | None = None
    context: int | None = None

    @property
    def generates(self) -> bool:
        """Whether completions are generated."""
        return self.kind in ONLINE

    @property
    def has_groups(self) -> bool:
        """Whether advantages are relative to a group."""
        return self.kind in ("dapo", "grpo")

    @property
    def metric_columns(self) -> list[int]:
        """The reward functions that make up the raw metric; length penalties never do."""
        if self.kind == "dapo" and self.names:
            return metric_columns(self.names, self.args)
        return answer_columns(self.names)

    @property
    def metric_weights(self) -> list[float]:
        """Weight of each of them; 1 for the one that `dynamic_sampling_metric` names."""
        if self.kind == "dapo" and self.args.dynamic_sampling_metric is not None:
            return [1.0] * len(self.metric_columns)
        return [self.weights[column] for column in self.metric_columns]

    @property
    def tolerance(self) -> float:
        """Largest range of the raw metric in a group that still counts as constant."""
        return self.args.dynamic_sampling_tolerance if self.kind == "dapo" else TOLERANCE


def prompt_text(prompt: Any) -> str:
    """Returns all text of a prompt, plain or of its messages."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(_content(message) for message in prompt or [])


def is_conversation(prompt: Any) -> bool:
    """Returns whether a prompt is a list of messages."""
    return isinstance(prompt, list)


def spread(rows: Sequence[Any], wanted: int) -> list[Any]:
    """Returns so many rows, at even distances, or all."""
    if len(rows) <= wanted:
        return list(rows)
    return [rows[place * len(rows) // wanted] for place in range(wanted)]


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))
