"""
Rows of a rollout: recorded as they are generated, selected by group, moved between ranks, replayed to the host.

Everything that TRL's `_generate` returns is a list with one entry per row, so a row can be kept, dropped or sent to
another rank whatever produced it: text, tools, environments, images or a `rollout_func`. All fields of a row travel
together.

Letters: B rows of all ranks in a round, b rows of this rank, F reward functions.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from accelerate.utils import gather_object

from ...host.plain import is_plain


# What `GRPOTrainer._generate` returns, in its order
Generation = tuple[list, list, list | None, list, list | None, dict[str, Any], list | None, list]


@dataclass
class Row:
    """
    One completion with all that belongs to it. `environment` stays on the rank that generated the row.
    `behaviour_logps` are the log-probs of the policy that generated it, where that is not the one that trains on it.
    """

    inputs: dict[str, Any]
    prompt: Any
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    tool_mask: list[int] | None
    logprobs: list[float] | None
    images: list | None
    tool_images: list
    extra_logs: dict[str, Any] = field(default_factory=dict)
    behaviour_logps: list[float] | None = None
    environment: Any = None

    @property
    def trained_length(self) -> int:
        """Tokens that the policy generated, without those of tools and environments."""
        return len(self.completion_ids) if self.tool_mask is None else sum(self.tool_mask)

    @property
    def is_plain(self) -> bool:
        """Whether nothing but numbers, text and tensors belongs to the row, so that it can be saved."""
        return is_plain({own.name: getattr(self, own.name) for own in fields(self)}) and not self.tool_images

    def replay_inputs(self) -> dict[str, Any]:
        """
        The dataset row as the host must see it again: its prompt as it went into generation, with what an environment
        added and with images in their places, so that neither is added twice.
        """
        inputs = {key: value for key, value in self.inputs.items() if key not in ("image", "images")}
        return {**inputs, "prompt": self.prompt}


@dataclass
class Round:
    """
    One pass of generation and scoring.

    Attributes:
        keeps_going (`bool`):
            Whether the host goes on to advantages after the rewards, as it does without dynamic sampling.
        rows (`list[Row]`):
            This rank's rows, b of them.
        rewards (`torch.Tensor`):
            Rewards of all ranks, shape `(B, F)`.
        lengths (`torch.Tensor`):
            Generated tokens of all ranks' rows, shape `(B,)`.
        truncated (`torch.Tensor`):
            Whether a row ran into `max_completion_length`, all ranks, shape `(B,)`.
        steps (`torch.Tensor`):
            Optimizer step at which a row was generated, all ranks, shape `(B,)`.
        prompts (`list[tuple[Any, int]]`):
            Prompt of each group as the stream identifies it, and the epoch in which it was served; of all ranks.
        carried (`bool`):
            Whether the rows come from earlier rollouts, which had no place for them.
        host_metrics (`dict[str, list[float]]`):
            What the host logged while it generated.
        user_metrics (`dict[str, list[float]]`):
            What reward functions logged through `log_metric`.
    """

    keeps_going: bool
    rows: list[Row] = field(default_factory=list)
    rewards: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    lengths: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    truncated: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    steps: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    prompts: list[tuple[Any, int]] = field(default_factory=list)
    carried: bool = False
    host_metrics: dict[str, list[float]] = field(default_factory=dict)
    user_metrics: dict[str, list[float]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Returns the round as plain values; of rows without environments and images."""
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        return {**values, "rows": [vars(row) for row in self.rows]}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Self:
        """Returns the round that [`~Round.state_dict`] was called on."""
        values: dict[str, Any] = {**state, "rows": [Row(**row) for row in state["rows"]]}
        return cls(**values)

    def record_generation(self, prompts: list, generation: Generation) -> None:
        """Splits what the host generated into rows."""
        prompt_ids, completion_ids, tool_mask, completions, logprobs, _, images, tool_images = generation
        self.rows = [
            Row(
                inputs={},
                prompt=prompt,
                prompt_ids=prompt_ids[i],
                completion_ids=completion_ids[i],
                completion=completions[i],
                tool_mask=None if tool_mask is None else tool_mask[i],
                logprobs=None if logprobs is None else logprobs[i],
                images=None if images is None else images[i],
                tool_images=tool_images[i] if tool_images else [],
            )
            for i, prompt in enumerate(prompts)
        ]

    def record_inputs(self, inputs: list[dict[str, Any]], environments: list | None) -> None:
        """Attaches the dataset rows, with the fields that a `rollout_func` added, and the environments."""
        for i, row in enumerate(self.rows):
            row.inputs = inputs[i]
            row.environment = None if environments is None else environments[i]
            # A `rollout_func` returns no images; the host then falls back on those of the dataset
            if row.images is None and ("image" in inputs[i] or "images" in inputs[i]):
                row.images = images_in(row.prompt)

    def record_extra_logs(self, columns: dict[str, list]) -> list[str]:
        """Attaches the columns of `log_extra` to the rows; returns the names of those that do not fit the rows."""
        fitting = {name: values for name, values in columns.items() if len(values) == len(self.rows)}
        for i, row in enumerate(self.rows):
            row.extra_logs = {name: values[i] for name, values in fitting.items()}
        return sorted(set(columns) - set(fitting))


def images_in(prompt: Any) -> list | None:
    """Returns the images inside a conversational prompt, or `None` where it has none."""
    if not isinstance(prompt, list):
        return None
    parts = [part for message in prompt if isinstance(message.get("content"), list) for part in message["content"]]
    return [part["image"] for part in parts if part["type"] == "image"] or None


def own_rows(rows: list[Row | None], sources: list[tuple[int, int]], rank: int) -> list[Row]:
    """
    Returns the rows that this rank trains on, after the ranks have exchanged those generated elsewhere.

    Args:
        rows (`list[Row | None]`):
            One entry per row of the final batch of all ranks: the row where this rank generated it, else `None`.
        sources (`list[tuple[int, int]]`):
            For each row of the final batch, the rank that generated it and the rank that trains on it.
        rank (`int`):
            This process.

    All ranks must call it. Rows that stay where they are are not copied; environments do not travel.
    """
    moving = [place for place, (source, target) in enumerate(sources) if source != target]
    if moving:
        held = {place: rows[place] for place in moving}
        sent = {place: replace(row, environment=None) for place, row in held.items() if row is not None}
        received: dict[int, Row] = {}
        for parcel in gather_object([sent]):
            received.update(parcel)
        rows = [received.get(place, row) for place, row in enumerate(rows)]
    return [_present(rows[place]) for place, (_, target) in enumerate(sources) if target == rank]


def _present(row: Row | None) -> Row:
    if row is None:
        raise RuntimeError("the ranks disagree about which of them generated a row")
    return row


def merged_generation(rows: list[Row], filler: list[bool]) -> Generation:
    """
    Returns what `_generate` would have returned for these rows.

    Tokens of `filler` rows are marked as not generated by the policy, which takes them out of the loss and of its
    denominator. Extra fields of a `rollout_func` are in the rows' inputs already.
    """
    masked = any(filler) or any(row.tool_mask is not None for row in rows)
    return (
        [row.prompt_ids for row in rows],
        [row.completion_ids for row in rows],
        [_loss_mask(row, drop) for row, drop in zip(rows, filler, strict=True)] if masked else None,
        [row.completion for row in rows],
        None if any(row.logprobs is None for row in rows) else [row.logprobs for row in rows],
        {},
        [row.images for row in rows] if any(row.images is not None for row in rows) else None,
        [row.tool_images for row in rows],
    )


def _loss_mask(row: Row, drop: bool) -> list[int]:
    if drop:
        return [0] * len(row.completion_ids)
    return [1] * len(row.completion_ids) if row.tool_mask is None else row.tool_mask


def merged_extra_logs(rows: list[Row]) -> dict[str, list]:
    """Returns the columns of `log_extra` for these rows; `None` where a round did not log a column."""
    names = sorted({name for row in rows for name in row.extra_logs})
    return {name: [row.extra_logs.get(name) for row in rows] for name in names}


def weighted_means(metrics: Iterable[tuple[dict[str, list[float]], float]]) -> dict[str, float]:
    """
    Returns one value per metric name: the mean of each round's mean, weighted by the round.

    Args:
        metrics (`Iterable[tuple[dict[str, list[float]], float]]`):
            For each round, the values it logged and its weight. Where all the weights of a name are 0, its rounds
            count alike.
    """
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for logged, weight in metrics:
        for name, numbers in logged.items():
            if numbers:
                values[name].append((sum(numbers) / len(numbers), weight))
    means = {}
    for name, pairs in values.items():
        total = sum(weight for _, weight in pairs)
        weights = [weight / total if total else 1 / len(pairs) for _, weight in pairs]
        means[name] = sum(value * weight for (value, _), weight in zip(pairs, weights, strict=True))
    return means
