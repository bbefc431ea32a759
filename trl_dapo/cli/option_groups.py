"""
Which options belong together: the groups of `--help`, and of every other list of options.

A pure table, without imports: a group's name is what `--help GROUP` takes, its title is its heading, and its fields
stand in the order in which they are shown. A field is in one group at most. [`grouped`] sorts the fields that a
command has, and what the table does not know (fields of a later release) goes into the last group, [`OTHERS`].

    >>> list(grouped(["beta", "temperature", "clip_higher", "brand_new"]))
    ['toggles', 'generation', 'loss', 'others']
"""

from collections.abc import Iterable


OTHERS = "others"

TITLES: dict[str, str] = {
    "toggles": "DAPO's five parts",
    "critic": "PPO's advantages, KL penalty and critic",
    "run": "model, data, results",
    "generation": "generation",
    "rewards": "rewards",
    "gpu": "one GPU, with adapters on a 4-bit base, and memory",
    "training": "training",
    "evaluation": "held-out questions and the evaluation split",
    "watching": "what is shown and logged of the run",
    "parts": "parameters of the toggles",
    "loss": "loss",
    "vllm": "generation with vLLM",
    "data": "columns, splits and preparation of the data",
    "model": "how the model is loaded",
    "precision": "precision and speed",
    "saving": "checkpoints and the Hub",
    "machines": "several GPUs, several machines",
    OTHERS: "others",
}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GROUPS: dict[str, tuple[str, ...]] = {
    # In the order of the paper's Table 1
    "toggles": _names(
        """
        overlong_filtering clip_higher soft_overlong_punishment token_level_loss dynamic_sampling
        """
    ),
    "critic": _names(
        """
        gamma lam kl_estimator kl_target kl_horizon missing_eos_penalty normalize_rewards reward_clip
        reward_adapter critic_learning_rate critic_max_grad_norm critic_warmup_steps cliprange_value
        """
    ),
    "run": _names(
        """
        model_name_or_path dataset_name output_dir resume_from_checkpoint seed dry_run
        """
    ),
    "generation": _names(
        """
        num_generations max_completion_length temperature top_p top_k min_p repetition_penalty
        steps_per_generation generation_batch_size use_vllm num_generations_eval generation_kwargs
        chat_template_kwargs max_tool_calling_iterations cache_implementation
        use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged
        ds3_gather_for_generation drop_finished_rows prefill_once
        """
    ),
    "rewards": _names(
        """
        reward_funcs reward_model_name_or_path reward_weights scale_rewards multi_objective_aggregation
        unparseable_reward scorer_time_limit reward_timeout center_rewards_coefficient statistics_window
        """
    ),
    "gpu": _names(
        """
        load_in_4bit load_in_8bit use_peft lora_r lora_alpha lora_dropout lora_target_modules
        lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora adapter_dtype
        bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage max_tokens_per_microbatch
        compact_microbatches generation_chunk_size max_tokens_per_generation_call gradient_checkpointing
        gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs
        activation_offloading auto_find_batch_size torch_empty_cache_steps
        """
    ),
    "training": _names(
        """
        learning_rate max_steps num_train_epochs per_device_train_batch_size gradient_accumulation_steps
        updates_per_rollout lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args
        optim_target_modules weight_decay max_grad_norm adam_beta1 adam_beta2 adam_epsilon disable_dropout
        neftune_noise_alpha average_tokens_across_devices full_determinism do_train
        """
    ),
    "evaluation": _names(
        """
        held_out held_out_scorer held_out_k held_out_size held_out_every eval_strategy eval_steps eval_delay
        eval_on_start per_device_eval_batch_size eval_accumulation_steps eval_do_concat_batches
        eval_use_gather_object batch_eval_metrics include_for_metrics prediction_loss_only bf16_full_eval
        fp16_full_eval do_eval do_predict
        """
    ),
    "watching": _names(
        """
        live_view diagnose stop_on save_on_finding report_to run_name project logging_steps logging_strategy
        logging_first_step logging_nan_inf_filter log_completions num_completions_to_print log_unique_prompts
        log_multimodal log_completions_hub_repo log_level log_level_replica log_on_each_node disable_tqdm
        include_num_input_tokens_seen skip_memory_metrics trackio_space_id trackio_bucket_id
        trackio_static_space_id debug
        """
    ),
    "parts": _names(
        """
        epsilon_high soft_punish_cache overlong_penalty_factor mask_truncated_completions max_refill_rounds
        max_round_batches dynamic_sampling_metric dynamic_sampling_tolerance dynamic_sampling_on_exhaustion
        skip_degenerate skip_solved_above prompt_selection surplus surplus_max_age token_level_scope
        """
    ),
    "loss": _names(
        """
        loss_type loss_weights beta epsilon delta num_iterations reference_free importance_sampling_level
        off_policy_mask_threshold use_bias_correction_kl sync_ref_model ref_model_mixup_alpha
        ref_model_sync_steps top_entropy_quantile entropy_coef use_adaptive_entropy entropy_target
        entropy_coef_min entropy_coef_max entropy_coef_delta sapo_temperature_neg sapo_temperature_pos
        vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg label_smoothing label_smoothing_factor
        use_weighting ld_alpha discopop_tau f_divergence_type f_alpha_divergence_coef precompute_ref_log_probs
        precompute_ref_batch_size router_aux_loss_coef
        """
    ),
    "vllm": _names(
        """
        vllm_mode vllm_gpu_memory_utilization vllm_enable_sleep_mode vllm_max_model_length
        vllm_tensor_parallel_size vllm_model_impl vllm_structured_outputs_regex vllm_sync vllm_base
        vllm_sync_tolerance vllm_importance_sampling_correction vllm_importance_sampling_mode
        vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap
        vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port
        """
    ),
    "data": _names(
        """
        answer_column prompt_column prompt_template dataset_config dataset_train_split dataset_test_split
        test_split_size dataset_streaming datasets streaming max_length truncation_mode padding_free
        pad_to_multiple_of pad_token eos_token chat_template_path dataset_num_proc shuffle_dataset data_seed
        train_sampling_strategy length_column_name remove_unused_columns label_names dataloader_num_workers
        dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
        dataloader_multiprocessing_context dataloader_in_order dataloader_drop_last ignore_data_skip
        """
    ),
    "model": _names(
        """
        model_revision dtype attn_implementation trust_remote_code model_init_kwargs use_cache
        ignore_bias_buffers
        """
    ),
    "precision": _names(
        """
        bf16 fp16 tf32 cast_lm_head_to_fp32 use_cpu use_liger_kernel liger_kernel_config torch_compile
        torch_compile_backend torch_compile_mode
        """
    ),
    "saving": _names(
        """
        save_strategy save_steps save_total_limit save_only_model save_on_each_node load_best_model_at_end
        metric_for_best_model greater_is_better restore_callback_states_from_checkpoint enable_jit_checkpoint
        push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision
        """
    ),
    "machines": _names(
        """
        accelerator_config deepspeed fsdp fsdp_config parallelism_config ddp_backend ddp_timeout
        ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph local_rank
        """
    ),
}

_SHARED = (
    *("model_name_or_path", "dataset_name", "output_dir", "resume_from_checkpoint", "dry_run"),
    *("load_in_4bit", "use_peft", "lora_r"),
    *("learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("live_view", "diagnose", "stop_on", "report_to", "logging_steps"),
)
_ONLINE = (
    *("num_generations", "max_completion_length", "temperature", "use_vllm"),
    *("reward_funcs", "reward_model_name_or_path"),
    *("max_tokens_per_microbatch", "generation_chunk_size"),
    *("held_out", "held_out_scorer", "held_out_every"),
)
_PREFERENCES = ("gradient_checkpointing", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "max_length")
_CRITIC = ("gamma", "lam", "kl_target", "reward_adapter", "critic_learning_rate")
# PPO has more of its own than fits on a page otherwise
_LEFT_TO_GROUPS = {"held_out_scorer", "generation_chunk_size", "logging_steps"}

# What `trl-dapo COMMAND --help` shows of a command's fields; the rest is behind `--help all`
FRONT: dict[str, frozenset[str]] = {
    "dapo": frozenset((*GROUPS["toggles"], *_SHARED, *_ONLINE, "updates_per_rollout")),
    "grpo": frozenset((*_SHARED, *_ONLINE, "loss_type", "beta", "epsilon")),
    "ppo": frozenset({*_CRITIC, *_SHARED, *_ONLINE, "beta", "num_iterations"} - _LEFT_TO_GROUPS),
    "reward": frozenset((*_SHARED, *_PREFERENCES, "center_rewards_coefficient", "statistics_window")),
    "dpo": frozenset((*_SHARED, *_PREFERENCES, "loss_type", "beta", "reference_free", "label_smoothing")),
}


def group_of(field: str) -> str:
    """Returns the name of the group that a field is in; [`OTHERS`] for one that the table does not know."""
    return next((name for name, fields in GROUPS.items() if field in fields), OTHERS)


def grouped(fields: Iterable[str]) -> dict[str, list[str]]:
    """
    Returns fields by the name of their group, groups and fields in the order of the table, without empty groups.

    Args:
        fields (`Iterable[str]`):
            Names of fields, each once. Those that no group names stand under [`OTHERS`] in the order given.
    """
    given = list(fields)
    found = {name: [field for field in members if field in given] for name, members in GROUPS.items()}
    found[OTHERS] = [field for field in given if group_of(field) == OTHERS]
    return {name: members for name, members in found.items() if members}
