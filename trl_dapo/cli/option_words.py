"""
Short texts of options for the first page of `--help`, one line each, and texts in place of some of TRL's.

A pure table. Defaults are not said here: help adds them. The key `"command.field"` goes before `"field"`.
"""

# On the first page alone: behind `--help GROUP`, fields of this package have the text of their own
FIRST_PAGE: dict[str, str] = {
    "overlong_filtering": "leave cut completions out of the loss",
    "clip_higher": "raise only the upper clip bound",
    "soft_overlong_punishment": "penalise completions near the limit",
    "token_level_loss": "same weight for every token",
    "dynamic_sampling": "replace groups with equal rewards",
    "gamma": "discount per token",
    "lam": "lambda of the advantages",
    "kl_target": "KL that beta is adapted to hold",
    "reward_adapter": "reward model as adapter of the base",
    "critic_learning_rate": "by default 10 times the policy's",
    "dry_run": "print what would run, and stop",
    "reward_funcs": "names, or dotted paths of functions",
    "reward_model_name_or_path": "reward model: folder or Hub id",
    "center_rewards_coefficient": "pull to rewards with mean 0",
    "statistics_window": "rows behind the saved mean reward",
    "max_tokens_per_microbatch": "bound on the update's memory",
    "generation_chunk_size": "bound on generation's memory",
    "updates_per_rollout": "updates per rollout; by default 4",
    "reference_free": "train without a reference model",
    "num_iterations": "passes over each rollout",
    "held_out": "data sets to measure accuracy on",
    "held_out_scorer": "who judges; by default as in training",
    "held_out_every": "a number of steps, epoch or eval",
    "live_view": "panel with the run's metrics",
    "diagnose": "look for faults during the run",
    "stop_on": "rules of the diagnosis that end the run",
}

# On every page, where the text of TRL or transformers is long or says something else first
TEXTS: dict[str, str] = {
    "model_name_or_path": "model: folder or Hub id",
    "dataset_name": "data set: name, file, folder or Hub id",
    "output_dir": "folder of checkpoints and model",
    "resume_from_checkpoint": "true: the last one; or its folder",
    "seed": "seed of all draws",
    "num_generations": "completions per prompt",
    "max_completion_length": "most tokens of a completion",
    "temperature": "of sampling",
    "use_vllm": "generate with vLLM",
    "load_in_4bit": "QLoRA, with --use_peft by default",
    "use_peft": "train a LoRA adapter",
    "lora_r": "rank of the adapter",
    "lora_alpha": "its scale is lora_alpha / lora_r",
    "lora_task_type": "CAUSAL_LM; SEQ_CLS for reward models",
    "gradient_checkpointing": "less memory, more time",
    "learning_rate": "peak learning rate",
    "max_steps": "optimizer steps; wins over epochs",
    "num_train_epochs": "passes over the data",
    "per_device_train_batch_size": "rows per device and micro-step",
    "gradient_accumulation_steps": "micro-steps per optimizer step",
    "per_device_eval_batch_size": "rows per device",
    "max_length": "most tokens of a row",
    "beta": "weight of the KL divergence",
    "dpo.beta": "how close to the reference to stay",
    "epsilon": "clip range",
    "loss_type": "dapo, grpo, bnpo, dr_grpo, …",
    "dpo.loss_type": "sigmoid, hinge, ipo, …",
    "label_smoothing": "share of pairs that may be swapped",
    "eval_strategy": "when to evaluate",
    "eval_steps": "with steps: how often",
    "report_to": "wandb, trackio, tensorboard, …",
    "logging_steps": "steps between two logs",
}

# What stands behind an option, where its type says too little
VALUES: dict[str, str] = {
    "model_name_or_path": "MODEL",
    "reward_model_name_or_path": "MODEL",
    "dataset_name": "DATA",
    "output_dir": "DIR",
    "resume_from_checkpoint": "PATH",
    "reward_adapter": "DIR",
    "reward_funcs": "NAME ...",
    "held_out": "DATA ...",
    "stop_on": "RULE ...",
    "loss_type": "NAME",
    "dpo.loss_type": "NAME ...",
}
