"""
What a published recipe says in TRL's fields, whatever their defaults are in the release that is installed.

Every field of TRL's config that the loss, the advantages or the sampling of completions read has a row here, or is one
that nothing in the recipe switches on. `tests/test_recipe.py` holds the list against the installed TRL.
"""

from dataclasses import fields
from typing import Any

import trl


# Sampling from the policy itself, as an importance ratio assumes
SAMPLING = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
}

# Of what is in Eq. 3 of DeepSeekMath and in the baseline of DAPO's Table 1 alike
GRPO = {
    **SAMPLING,
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "num_iterations": 1,
    "importance_sampling_level": "token",
    # Advantages: rewards of a group, standardised
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    # The KL term is k3, each token weighing 1: no importance ratio before it
    "use_bias_correction_kl": False,
    "sync_ref_model": False,
    # Every token of every completion, and no further term
    "mask_truncated_completions": False,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
}

# Eq. 3 of the DeepSeekMath paper, with the coefficient of its section 4.2
DEEPSEEKMATH = {**GRPO, "loss_type": "grpo", "beta": 0.04, "router_aux_loss_coef": 0.0}

# The paper gives one learning rate, without warm-up or decay
SCHEDULE = {"lr_scheduler_type": "constant", "warmup_steps": 0}

# Naive GRPO, whichever config says it
NAIVE = {**DEEPSEEKMATH, **SCHEDULE}


def known_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of the fields that the installed TRL has."""
    names = {own.name for own in fields(trl.GRPOConfig)}
    return {name: value for name, value in values.items() if name in names}
