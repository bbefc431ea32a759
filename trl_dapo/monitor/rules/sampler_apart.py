"""
Sampler and trainer apart: the engine that samples gives tokens other probabilities than the trainer.
"""

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


K3, DIFFERENCE, SIZE = (
    "rollout/mismatch_k3",
    "sampling/sampling_logp_difference/mean",
    "rollout/effective_sample_size",
)
# Nats per token, and the share of rows that count
BOUNDS = {K3: 0.05, DIFFERENCE: 0.2}
SMALLEST = 0.3


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    key = str(seen.first_of(*BOUNDS))
    value = seen.series(key).values[-1]
    size = seen.row.values.get(SIZE)
    if value < BOUNDS[key] and (size is None or size >= SMALLEST):
        return None
    counted = "" if size is None else f", and {size:.0%} of the rows count"
    return Symptom(
        seen.row.step,
        f"sampler and trainer differ by {value:.3g} nats per token{counted} ({key}).",
        {"difference": value, **({} if size is None else {"effective_sample_size": size})},
        ("vllm_base=as the trainer's", "vllm_importance_sampling_mode='token_truncate'"),
    )


RULE = Rule(
    name="sampler_apart",
    watches=lambda seen: seen.first_of(*BOUNDS),
    needs="`rollout/mismatch_k3` or `sampling/sampling_logp_difference/mean`, logged with vLLM",
    look=_look,
    minimum=2,
    patience=3,
    advice="Hold the base alike on both sides (precision, quantization), and check that the sync reaches the engine: "
    "updates are for completions that the policy would not have written.",
    reference="docs/vllm.md",
    of_rollouts=False,
)
