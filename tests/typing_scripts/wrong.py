"""Mistakes that a type checker finds: each line with a `# wrong` is one."""

from typing import Any

from trl_dapo import (
    DAPOConfig,
    DAPOTrainer,
    DPOConfig,
    EvaluationCallback,
    GRPOConfig,
    PPOConfig,
    PPOTrainer,
    RewardModelFunction,
)


def reward(completions: list[str], **columns: Any) -> list[float]:
    """One number per completion."""
    return [0.0 for _ in completions]


def one_text(completions: list[str], **columns: Any) -> list[str]:
    """No numbers."""
    return completions


DAPOConfig("run", clip_higher="yes")  # wrong
DAPOConfig("run", surplus="keep")  # wrong
DAPOConfig("run", skip_degenerate="always")  # wrong
DAPOConfig("run", max_refill_rounds=None)  # wrong
DAPOConfig("run", clip_highest=True)  # wrong
GRPOConfig("run", vllm_sync="all")  # wrong
PPOConfig("run", kl_estimator="k2")  # wrong
DPOConfig("run", adapter_dtype="float16")  # wrong
DAPOTrainer("some/model", one_text)  # wrong
DAPOTrainer("some/model", reward, callback=[])  # wrong
DAPOTrainer("some/model", reward, "run")  # wrong
PPOTrainer("some/model", reward, DAPOConfig("run"))  # wrong
PPOTrainer("some/model", reward, value_peft_config="lora")  # wrong
RewardModelFunction("reward-model", None, 8)  # wrong
RewardModelFunction(8)  # wrong
EvaluationCallback("trainer", {}, "exact")  # wrong
DISCOUNT = PPOConfig("run").gama  # wrong
