"""Recipes that have a name are what the name says, whatever TRL's defaults are."""

import math
from dataclasses import fields

import pytest
import torch
import transformers
import trl

from tiny import parity_reward, tiny_args, tiny_lora
from training import build
from trl_dapo import DAPOConfig, GRPOConfig, GRPOTrainer
from trl_dapo.dapo.paper import PINNED
from trl_dapo.grpo.recipe import DEEPSEEKMATH, GRPO


# Fields of TRL that the loss, the advantages or the sampling read, with TRL's defaults. Where a new release differs:
# decide in `grpo/recipe.py` what the recipes have there, then change the table.
DEFAULTS = {
    "beta": 0.0,
    "delta": None,
    "entropy_coef": 0.0,
    "epsilon": 0.2,
    "epsilon_high": None,
    "generation_kwargs": None,
    "importance_sampling_level": "token",
    "loss_type": "dapo",
    "mask_truncated_completions": False,
    "min_p": None,
    "multi_objective_aggregation": "sum_then_normalize",
    "num_iterations": 1,
    "off_policy_mask_threshold": None,
    "repetition_penalty": 1.0,
    "router_aux_loss_coef": None,
    "scale_rewards": "group",
    "sync_ref_model": False,
    "temperature": 1.0,
    "top_entropy_quantile": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "use_adaptive_entropy": False,
    "use_bias_correction_kl": True,
}
# Read only where a field above, which the recipes pin, switches them on
SWITCHED_ON_BY = {
    "sapo_temperature_neg": ("loss_type", 1.05),
    "sapo_temperature_pos": ("loss_type", 1.0),
    "vespo_k_neg": ("loss_type", 3.0),
    "vespo_k_pos": ("loss_type", 2.0),
    "vespo_lambda_neg": ("loss_type", 2.0),
    "vespo_lambda_pos": ("loss_type", 3.0),
    "ref_model_mixup_alpha": ("sync_ref_model", 0.6),
    "ref_model_sync_steps": ("sync_ref_model", 512),
    "entropy_coef_delta": ("use_adaptive_entropy", 0.005),
    "entropy_coef_max": ("use_adaptive_entropy", 1.0),
    "entropy_coef_min": ("use_adaptive_entropy", 0.0),
    "entropy_target": ("use_adaptive_entropy", 0.2),
}
# Of the run: its size, its data, its rewards, and the engine that generates. vLLM's correction makes up for its
# rounding, so that completions count as the policy's own, which every importance ratio assumes
OF_THE_RUN = {
    "steps_per_generation": None,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "reward_weights": None,
}
NOT_OF_THE_LOSS = {
    "cache_implementation",
    "cast_lm_head_to_fp32",
    "chat_template_kwargs",
    "disable_dropout",
    "ds3_gather_for_generation",
    "generation_batch_size",
    "log_completions",
    "log_completions_hub_repo",
    "log_multimodal",
    "log_unique_prompts",
    "max_completion_length",
    "max_tool_calling_iterations",
    "model_init_kwargs",
    "num_completions_to_print",
    "num_generations",
    "num_generations_eval",
    "pad_to_multiple_of",
    "shuffle_dataset",
    "transformers_continuous_batching_config",
    "trust_remote_code",
    "use_transformers_continuous_batching",
    "use_transformers_paged",
    "use_vllm",
    "vllm_importance_sampling_cap",
    "vllm_enable_sleep_mode",
    "vllm_gpu_memory_utilization",
    "vllm_group_port",
    "vllm_max_model_length",
    "vllm_mode",
    "vllm_model_impl",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_server_timeout",
    "vllm_structured_outputs_regex",
    "vllm_tensor_parallel_size",
}
# Of transformers' own fields, those that weigh tokens or move parameters beside the gradient
OF_TRANSFORMERS = {
    "average_tokens_across_devices": True,
    "label_smoothing_factor": 0.0,
    "max_grad_norm": 1.0,
    "neftune_noise_alpha": None,
    "weight_decay": 0.0,
    "use_liger_kernel": False,
}
OLDER = {"router_aux_loss_coef": 0.001}  # in TRL 1.12


def host_defaults():
    return {own.name: own.default for own in fields(trl.GRPOConfig)}


def test_every_field_of_trl_is_known_to_be_of_the_loss_or_not():
    base = {own.name for own in fields(transformers.TrainingArguments)}
    new = set(host_defaults()) - base - set(DEFAULTS) - set(SWITCHED_ON_BY) - set(OF_THE_RUN) - NOT_OF_THE_LOSS
    assert not new, f"TRL has new fields: {sorted(new)}. Are they of the loss? See `grpo/recipe.py`."


def test_defaults_of_the_loss_are_those_that_the_recipes_were_held_against():
    switched = {name: default for name, (_, default) in SWITCHED_ON_BY.items()}
    for name, expected in {**DEFAULTS, **switched, **OF_THE_RUN, **OF_TRANSFORMERS}.items():
        if name in host_defaults():
            assert host_defaults()[name] in (expected, OLDER.get(name, expected)), name


def test_the_recipe_has_every_field_of_the_loss():
    assert set(DEEPSEEKMATH) == set(DEFAULTS)
    assert {switch for switch, _ in SWITCHED_ON_BY.values()} <= set(DEEPSEEKMATH)


def test_naive_is_eq_3_of_deepseekmath(tmp_path, monkeypatch):
    found = GRPOConfig.naive(str(tmp_path), use_cpu=True, bf16=False)
    expected = {
        **{"loss_type": "grpo", "beta": 0.04, "epsilon": 0.2, "delta": None, "num_iterations": 1},
        **{"use_bias_correction_kl": False, "importance_sampling_level": "token", "scale_rewards": "group"},
        **{"router_aux_loss_coef": 0.0, "entropy_coef": 0.0, "use_adaptive_entropy": False, "temperature": 1.0},
        **{"off_policy_mask_threshold": None, "top_entropy_quantile": 1.0, "sync_ref_model": False, "top_p": 1.0},
        **{"multi_objective_aggregation": "sum_then_normalize", "mask_truncated_completions": False, "min_p": None},
    }
    assert {name: getattr(found, name) for name in expected} == expected
    # One update per rollout, at one learning rate from beginning to end
    assert found.steps_per_generation == found.gradient_accumulation_steps
    assert (found.lr_scheduler_type, found.warmup_steps) == ("constant", 0)
    assert GRPOConfig.naive(str(tmp_path), use_cpu=True, bf16=False, beta=0.1, top_p=0.9).top_p == 0.9


def test_the_loss_of_naive_is_the_equation(tmp_path):
    # Two completions of 1 and 3 tokens, ratios e^0.1 and e^-0.1, advantages 1 and -1, log-probs of the reference 0.5
    # above. k3 = e^0.5 - 0.5 - 1 = 0.148721 for each token, whatever its ratio. Both ratios are within the clip range:
    # loss = -(1/2) (e^0.1 - e^-0.1) + 0.04 * 0.148721 = -0.100167 + 0.005949
    args = tiny_args(tmp_path, cls=GRPOConfig, num_generations=2, per_device_train_batch_size=2)
    for name, value in DEEPSEEKMATH.items():
        setattr(args, name, value)
    trainer = build(GRPOTrainer, args, peft_config=tiny_lora(), reward_funcs=parity_reward)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    logps = torch.full((2, 3), -2.0)
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logps, torch.zeros(2, 3), None)
    inputs = {
        "prompt_ids": torch.ones(2, 1, dtype=torch.long),
        "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": torch.ones(2, 3, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor([1.0, -1.0]),
        "old_per_token_logps": logps - torch.tensor([[0.1], [-0.1]]),
        "ref_per_token_logps": logps + 0.5,
        "num_items_in_batch": mask.sum(),
    }
    kl = 0.04 * (math.exp(0.5) - 1.5)
    expected = -(math.exp(0.1) - math.exp(-0.1)) / 2 + kl
    assert trainer._compute_loss(trainer.model, inputs).item() == pytest.approx(expected, rel=1e-5)


def test_all_rows_of_the_ladder_have_the_pinned_fields(tmp_path):
    fields = {"use_cpu": True, "bf16": False}
    rows = DAPOConfig.ladder(str(tmp_path), **fields)
    whole = DAPOConfig(str(tmp_path), **fields)
    for config in (DAPOConfig.ladder_start(str(tmp_path), **fields), *rows, whole):
        assert {name: getattr(config, name) for name in PINNED} == PINNED
    assert set(GRPO) - set(PINNED) == {"epsilon_high", "mask_truncated_completions"}
    assert DAPOConfig.ladder_start(str(tmp_path), beta=0.1, **fields).beta == 0.1


def test_a_promoted_config_has_the_kl_term_of_the_paper_and_says_so(tmp_path):
    plain = trl.GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, beta=0.1)
    promoted, lines = DAPOConfig.from_grpo_config(plain)
    assert promoted.use_bias_correction_kl is False
    assert "use_bias_correction_kl: True -> False" in lines


# ---------------------------------------------------------------------------------------------------------- naive GRPO

RUNS = [
    {},
    {"gradient_accumulation_steps": 4, "num_generations": 4},
    {"steps_per_generation": 8, "num_iterations": 2},
    {"generation_batch_size": 64, "beta": 0.1, "lr_scheduler_type": "linear", "warmup_steps": 3},
]


@pytest.mark.parametrize("values", RUNS)
def test_naive_grpo_is_the_same_for_both_trainers_field_by_field(tmp_path, values):
    values = {**values, "use_cpu": True, "bf16": False}
    of_grpo, of_dapo = GRPOConfig.naive(str(tmp_path), **values), DAPOConfig.naive_grpo(str(tmp_path), **values)
    shared = [own.name for own in fields(GRPOConfig)]
    assert {name: getattr(of_dapo, name) for name in shared} == {name: getattr(of_grpo, name) for name in shared}


def test_naive_grpo_is_the_published_one(tmp_path):
    # Eq. 3 and section 4.2 of DeepSeekMath: a mean over each completion, then over the group; clipped alike on both
    # sides; a KL term of 0.04 to the reference; one update per rollout; one learning rate
    found = DAPOConfig.naive_grpo(str(tmp_path), use_cpu=True, bf16=False, gradient_accumulation_steps=2)
    expected = {
        **{
            "loss_type": "grpo",
            "epsilon": 0.2,
            "epsilon_high": None,
            "beta": 0.04,
            "mask_truncated_completions": False,
        },
        **{"lr_scheduler_type": "constant", "warmup_steps": 0, "updates_per_rollout": 1, "steps_per_generation": 2},
        **{"use_bias_correction_kl": False, "num_iterations": 1, "scale_rewards": "group", "dynamic_sampling": False},
        **{"soft_overlong_punishment": False, "overlong_filtering": False, "clip_higher": False},
        **{"token_level_loss": False, "learning_rate": 1e-6},
    }
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_ladder_starts_from_naive_grpo_less_kl_at_the_speed_of_dapo(tmp_path):
    values = {"use_cpu": True, "bf16": False}
    start, naive = DAPOConfig.ladder_start(str(tmp_path), **values), DAPOConfig.naive_grpo(str(tmp_path), **values)
    differing = {own.name for own in fields(DAPOConfig) if getattr(start, own.name) != getattr(naive, own.name)}
    assert differing == {
        *("beta", "lr_scheduler_type", "warmup_steps", "router_aux_loss_coef"),
        *("updates_per_rollout", "steps_per_generation", "generation_batch_size"),
    }
