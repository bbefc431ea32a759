"""
Proof that engine and trainer hold the same policy: a few tokens scored on both sides after a sync.

Three questions are asked:

- Is the difference below the tolerance?
- Is it small against the spread of the trainer's log-probabilities over tokens? From a model that is nearly uniform,
  an engine with another base, or with none, may differ by little in nats. But where the two sides are constant or not
  correlated, the mean square of the difference is at least the variance of the trainer's: the root is a share of 1 or
  more, with any model.
- Is the engine nearer to another model that it could have been left with: the base, if no adapter was applied, or the
  policy of an earlier sync? With differences `p` to the policy, `o` to the other model, and `m` between those two, an
  engine with noise `n` that holds the policy has `o >= m - n` and `p <= n`, and one that holds the other has them
  exchanged. So for `m > 3 n`, `2 o < p` tells them apart without error, and no tolerance is needed. For a smaller `m`
  they cannot be told apart, and differ by less than the engine's own rounding: sampling from either is the same.
"""

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..host.starting_point import as_it_was
from .engine_settings import Limits


# Text of the kind that a model has seen: on random tokens, rounding alone moves log-probabilities by whole nats
PASSAGE = (
    "A train leaves the station at nine and travels 60 miles per hour. How far has it gone at noon? From nine to noon "
    "there are 3 hours, so it has gone 3 * 60 = 180 miles. The answer is 180."
)
MOST_TOKENS = 64
# Models this near, in nats per token, are one model even in float32
ONE_MODEL = 1e-6


class SyncError(RuntimeError):
    """Engine and trainer hold different policies."""


class SyncCheck:
    """
    Compares the log-probabilities of a fixed passage between an engine and a trainer.

    Args:
        model (`nn.Module`):
            The trained model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        limits ([`Limits`]):
            Differences that stop the run.
        sync (`str`):
            How the engine gets the policy, for messages.
        autocast (`Callable`, *optional*):
            Returns what surrounds passes of the trainer.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, limits: Limits, sync: str, autocast: Any = nullcontext
    ) -> None:
        self._model, self._limits, self._sync, self._autocast = model, limits, sync, autocast
        self._ids = probe_tokens(tokenizer)
        self._base: torch.Tensor | None = None
        self._earlier: torch.Tensor | None = None

    def difference(self, engine: Any, lora_request: Any = None) -> float:
        """
        Returns the mean difference per token, in nats.

        Raises:
            [`SyncError`]: If it is above a limit, or the engine holds the base or an earlier policy.
        """
        policy, sampler = self._trainer_logps(), engine_logps(engine, self._ids, lora_request)
        found = _mean_difference(sampler, policy)
        if self._base is None:
            # Leaving `disable_adapter` freezes every adapter but the active one, such as a critic's
            with as_it_was(self._model), self._model.disable_adapter():
                self._base = self._trainer_logps()
        # Before the tolerance, since it says what is wrong
        self._check_not(self._base, "the base, as if no adapter were applied", policy, sampler)
        if self._earlier is not None:
            self._check_not(self._earlier, "the policy of the sync before", policy, sampler)
        self._check_limits(found, share_of_spread(sampler, policy))
        self._earlier = policy
        return found

    def _check_limits(self, found: float, share: float) -> None:
        limits = self._limits
        if not found <= limits.nats:  # NaN too
            is_above = f"vllm_sync_tolerance={limits.nats:g}"
        elif limits.share is not None and not share <= limits.share:
            is_above = (
                f"{limits.share:.0%} of the spread of log-probabilities over tokens (it is {share:.0%}; 100% and more "
                "is an engine that knows nothing of the trainer's model)"
            )
        else:
            return
        raise SyncError(
            f"After a sync, vLLM and the trainer differ by {found:.3g} nats per token, above {is_above}: they are not "
            "the same model. Check that vLLM and the trainer load the same base in the same precision (`vllm_base`), "
            "or, if a difference like this is that of the precision, set `vllm_sync_tolerance` above it."
        )

    def _check_not(self, other: torch.Tensor, name: str, policy: torch.Tensor, sampler: torch.Tensor) -> None:
        apart = _mean_difference(other, policy)
        to_other, to_policy = _mean_difference(sampler, other), _mean_difference(sampler, policy)
        if apart > ONE_MODEL and 2 * to_other < to_policy:
            raise SyncError(
                f"After a sync, vLLM samples from {name}: it differs from that by {to_other:.3g} nats per token, and "
                f"from the trained policy by {to_policy:.3g}. vllm_sync={self._sync!r} did not reach the engine. Use "
                "a vLLM that TRL supports, or set use_vllm=False."
            )

    def _trainer_logps(self) -> torch.Tensor:
        ids = torch.tensor([self._ids], device=next(self._model.parameters()).device)
        around: AbstractContextManager = self._autocast()
        with torch.no_grad(), as_it_was(self._model), around:
            logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        logps = logits[0, :-1].float().log_softmax(dim=-1)  # (T - 1, V)
        return logps.gather(-1, ids[0, 1:, None])[:, 0].cpu()


def engine_logps(engine: Any, ids: list[int], lora_request: Any = None) -> torch.Tensor:
    """Returns the log-probabilities that an engine gives T tokens, but for the first, shape `(T - 1,)`."""
    # Computed anew for each request that asks for them: vLLM does not read the prefix cache for those
    params = importlib.import_module("vllm").SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    applied = {} if lora_request is None else {"lora_request": lora_request}
    output = engine.generate([{"prompt_token_ids": ids}], sampling_params=params, use_tqdm=False, **applied)[0]
    given = output.prompt_logprobs[1:]  # the first token has none
    return torch.tensor([one[token].logprob for one, token in zip(given, ids[1:], strict=True)])


def probe_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token ids that are scored, at most 64."""
    return tokenizer(PASSAGE)["input_ids"][:MOST_TOKENS]


def share_of_spread(sampler: torch.Tensor, policy: torch.Tensor) -> float:
    """
    Returns how far a sampler is from a policy, in standard deviations of the policy's log-probabilities over tokens.

    `sqrt(mean((s - p)^2) / var(p))`: 0 for the same, at least 1 for a sampler that is constant or not correlated.

    Args:
        sampler, policy (`torch.Tensor`):
            Log-probabilities of the same T tokens, shape `(T,)`. If the policy's are all equal, the share is 0 where
            the sampler's are the same, else infinite.
    """
    difference, spread = (sampler - policy).square().mean().sqrt().item(), policy.std(correction=0).item()
    if difference == 0:
        return 0.0
    return difference / spread if spread else float("inf")


def _mean_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().mean().item()
