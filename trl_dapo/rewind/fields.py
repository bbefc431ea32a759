"""
Which fields of a run may change at a checkpoint, from when on they act, and why the others may not.

A field that is in none of these tables is refused: a rewind compares futures that differ in what was changed and in
nothing else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


UPDATE = "from the next update"
ROLLOUT = "from the next rollout"
OPTIMIZER = "from the next update; written over what the checkpoint's optimizer and schedule hold"

# The checkpoint holds what these had been; `rewind.optimizer` makes them act
RATES = ("learning_rate", "critic_learning_rate")
SCHEDULE = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
GROUP_KEYS = {"weight_decay": "weight_decay", "adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
OPTIMIZER_FIELDS = (*RATES, *SCHEDULE, *GROUP_KEYS)

# The ratio of an update would be that of two temperatures
NOT_INSIDE_A_ROLLOUT = ("temperature",)

_UPDATE_FIELDS = (
    "epsilon", "epsilon_high", "clip_higher", "delta", "loss_type", "importance_sampling_level", "max_grad_norm",
    "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg",
    "vespo_lambda_neg", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "entropy_coef_min",
    "entropy_coef_max", "entropy_coef_delta", "entropy_target", "off_policy_mask_threshold",
    "use_bias_correction_kl", "router_aux_loss_coef", "token_level_loss", "sync_ref_model",
    "ref_model_mixup_alpha", "ref_model_sync_steps", "cliprange_value", "critic_max_grad_norm",
    "critic_warmup_steps", "beta", "loss_weights", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef",
    "label_smoothing", "use_weighting", "discopop_tau", "center_rewards_coefficient",
)  # fmt: skip

_ROLLOUT_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "max_completion_length",
    "reward_weights", "reward_funcs", "scale_rewards", "multi_objective_aggregation", "mask_truncated_completions",
    "overlong_filtering", "soft_overlong_punishment", "soft_punish_cache", "overlong_penalty_factor",
    "dynamic_sampling", "max_refill_rounds", "dynamic_sampling_metric", "dynamic_sampling_tolerance",
    "dynamic_sampling_on_exhaustion", "max_round_batches", "skip_degenerate", "skip_solved_above",
    "prompt_selection", "surplus", "surplus_max_age", "token_level_scope", "gamma", "lam", "kl_estimator",
    "kl_target", "kl_horizon", "missing_eos_penalty", "normalize_rewards", "reward_clip", "unparseable_reward",
    "max_tool_calling_iterations", "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min",
)  # fmt: skip

ACTS = {
    **dict.fromkeys(_UPDATE_FIELDS, UPDATE),
    **dict.fromkeys(_ROLLOUT_FIELDS, ROLLOUT),
    **dict.fromkeys(OPTIMIZER_FIELDS, OPTIMIZER),
}


@dataclass(frozen=True)
class _Reason:
    pattern: str
    text: str


# The first that fits a name is its reason
_REASONS = (
    _Reason(
        r"seed|data_seed|full_determinism|shuffle_dataset|train_sampling_strategy|ignore_data_skip",
        "the futures are compared with the same random numbers and prompts",
    ),
    _Reason(
        r"max_steps|num_train_epochs",
        "learning-rate schedules are laid over the whole run, so its length stays; --steps says where futures end",
    ),
    _Reason(
        r"per_device_train_batch_size|gradient_accumulation_steps|num_generations|generation_batch_size|num_iterations"
        r"|steps_per_generation|updates_per_rollout|auto_find_batch_size|average_tokens_across_devices",
        "it is the shape of a rollout, and the checkpoint's rollouts and prompts are counted in that shape",
    ),
    _Reason(
        r"output_dir|resume_from_checkpoint|run_name|project|report_to|trackio_.*|hub_.*|push_to_hub|do_.*|dry_run"
        r"|save_.*|enable_jit_checkpoint|load_best_model_at_end|metric_for_best_model|greater_is_better"
        r"|restore_callback_states_from_checkpoint|local_rank",
        "it says where a run writes and what, and each future has a folder of its own",
    ),
    _Reason(
        r"logging_.*|log_.*|eval_.*|per_device_eval_batch_size|prediction_loss_only|include_.*|batch_eval_metrics"
        r"|num_generations_eval|held_out.*|num_completions_to_print|disable_tqdm|statistics_window|debug|live_view"
        r"|diagnose|stop_on|save_on_finding|skip_memory_metrics|label_names",
        "it says what is measured and when, and futures are measured as the run was",
    ),
    _Reason(
        r"optim|optim_args|optim_target_modules",
        "the optimizer's state in the checkpoint fits that optimizer alone",
    ),
    _Reason(
        r"model_.*|dtype|attn_implementation|trust_remote_code|use_peft|lora_.*|use_rslora|use_dora|load_in_.*|bnb_.*"
        r"|use_bnb.*|adapter_dtype|disable_dropout|cast_lm_head_to_fp32|neftune_noise_alpha|reference_free"
        r"|reward_adapter|use_cache|chat_template.*|eos_token|pad_token",
        "the checkpoint's weights are those of that model",
    ),
    _Reason(
        r"dataset.*|streaming|test_split_size|answer_column|prompt_column|prompt_template|dataloader_.*"
        r"|remove_unused_columns|max_length|truncation_mode|padding_free|pad_to_multiple_of|length_column_name"
        r"|precompute_ref.*",
        "the checkpoint's place in the data is counted in that data set",
    ),
    _Reason(
        r"reward_model_name_or_path|reward_timeout|scorer_time_limit|label_smoothing_factor|max_tokens_.*",
        "it cannot be taken up at a checkpoint so that nothing else changes",
    ),
)
_HOW = "it says how the numbers are computed and not which, and the futures would differ by rounding too"


# What a trainer's checkpoint holds, and loads whatever the config says
_HELD = {("ppo", "beta"): "the checkpoint holds the KL coefficient, which training may have moved"}


def refusal(name: str, command: str = "dapo") -> str | None:
    """Returns why a field may not change at a checkpoint of a command's run, or `None` where it may."""
    if (command, name) in _HELD:
        return _HELD[command, name]
    if name in ACTS:
        return None
    return next((one.text for one in _REASONS if re.fullmatch(one.pattern, name)), _HOW)


def optimizer_fields(names: Iterable[str]) -> tuple[str, ...]:
    """Returns those of the names that the optimizer or its schedule hold."""
    return tuple(name for name in names if name in OPTIMIZER_FIELDS)
