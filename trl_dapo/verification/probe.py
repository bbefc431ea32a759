"""
A probe: some prompts of the run, completions of each by the policy that training starts from, and their rewards.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from ..dapo.sampling.groups import raw_metric
from ..host import probing
from .setup import Setup, spread


# Rewards are float32, and of 1 this is the rounding
SMALLEST = 1e-7


@dataclass(frozen=True)
class Limits:
    """
    How much is generated.

    Args:
        prompts (`int`, *optional*, defaults to `8`):
            Prompts of the probe.
        completions (`int`, *optional*):
            Completions of each. By default `num_generations`, at least 8 and at most 16.
        max_new_tokens (`int`, *optional*, defaults to `256`):
            Longest completion of the probe; never above `max_completion_length`.
    """

    prompts: int = 8
    completions: int | None = None
    max_new_tokens: int | None = 256

    def __post_init__(self) -> None:
        for name, least in (("prompts", 1), ("completions", 2), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")

    def completions_of(self, args: Any) -> int:
        """Returns how many completions each prompt gets."""
        return self.completions or min(16, max(8, args.num_generations))

    def tokens_of(self, args: Any) -> int | None:
        """Returns the longest completion of the probe; `None` where the run has no limit either."""
        given = [one for one in (self.max_new_tokens, args.max_completion_length) if one is not None]
        return min(given) if given else None


@dataclass(frozen=True)
class Probe:
    """
    P prompts with n completions each. Row tensors have shape `(P * n,)`, rows of one prompt together.

    Args:
        per_prompt (`int`):
            Completions of each prompt, n.
        rewards (`torch.Tensor`):
            What the reward functions gave, shape `(P * n, F)`; NaN where one does not apply.
        metric (`torch.Tensor`):
            Raw metric.
        lengths (`torch.Tensor`):
            Tokens.
        cut (`torch.Tensor`):
            Whether a row has no end token.
        penalties (`torch.Tensor`, *optional*):
            Length penalty that the trainer adds, -1 to 0, where it adds one.
        limit (`int`, *optional*):
            Tokens after which the probe cut.
        run_limit (`int`, *optional*):
            Tokens after which the run cuts.
    """

    per_prompt: int
    rewards: torch.Tensor
    metric: torch.Tensor
    lengths: torch.Tensor
    cut: torch.Tensor
    penalties: torch.Tensor | None
    limit: int | None
    run_limit: int | None

    @property
    def is_shortened(self) -> bool:
        """Whether completions are cut earlier than in the run."""
        return self.limit is not None and (self.run_limit is None or self.limit < self.run_limit)

    def counts(self, tolerance: float) -> list[tuple[int, ...]]:
        """Returns, for each prompt, how many completions have each metric; those without one are left out."""
        values = (self.metric / max(tolerance, SMALLEST)).round()
        return [tuple(Counter(row[row.isfinite()].tolist()).values()) for row in values.view(-1, self.per_prompt)]


def run_probe(trainer: Any, setup: Setup, limits: Limits) -> Probe:
    """Generates and rewards; the trainer must be in `left_as_found`."""
    each, limit = limits.completions_of(setup.args), limits.tokens_of(setup.args)
    prompts = spread([row for row in setup.sample.rows if "prompt" in row], limits.prompts)
    rows = [row for row in prompts for _ in range(each)]
    torch.manual_seed(setup.args.seed)
    completions = probing.generate(trainer, [row["prompt"] for row in rows], each, limit)
    rewards = probing.rewards(trainer, rows, completions)
    metric = raw_metric(rewards[:, setup.metric_columns], torch.tensor(setup.metric_weights))
    return Probe(
        each,
        rewards,
        metric,
        torch.tensor([len(ids) for ids in completions.completion_ids]),
        torch.tensor(probing.is_cut(trainer, completions)),
        _penalties(trainer, rewards, completions),
        limit,
        setup.args.max_completion_length,
    )


def _penalties(trainer: Any, rewards: torch.Tensor, completions: probing.Completions) -> torch.Tensor | None:
    own = getattr(trainer, "length_penalty", None)
    if own is None:
        return None
    penalties = torch.tensor(own.function(completion_ids=completions.completion_ids), dtype=torch.float64)
    return penalties.masked_fill(rewards.isnan().all(dim=1), torch.nan)
