# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo",
#     "trl",
#     "datasets",
# ]
# ///

"""
DPO, with a reference model or without.

On a GPU, with a reference; with an adapter, that is the base without it, at no cost in memory:

```
python examples/scripts/dpo.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir Qwen2.5-0.5B-DPO --use_peft --learning_rate 5e-6
```

Without one, `--reference_free` compares log-probabilities of the policy alone. The SFT term keeps those of chosen
completions from falling:

```
python examples/scripts/dpo.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir Qwen2.5-0.5B-DPO-reference-free --use_peft --learning_rate 5e-6 \
    --reference_free --loss_type sigmoid sft
```

On a CPU, with the built-in task in place of model and data; `--reference_free --loss_type sigmoid sft` works here too:

```
python examples/scripts/dpo.py \
    --use_cpu --bf16 false \
    --output_dir arena-DPO \
    --per_device_train_batch_size 32 --per_device_eval_batch_size 128 \
    --learning_rate 3e-4 --max_steps 100
```
"""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import DPOConfig, DPOTrainer
from trl_dapo.arena import load_warm_start, preference_dataset


def main(script_args: ScriptArguments, training_args: DPOConfig, model_args: ModelConfig) -> None:
    reference = None
    if model_args.model_name_or_path is None and script_args.dataset_name is None:
        (model, tokenizer), train = load_warm_start(), preference_dataset(4096)
        held_out = preference_dataset(512, split="held_out")
        if not (training_args.reference_free or model_args.use_peft):
            # TRL would load it by the model's name, and the built-in model has none
            reference, _ = load_warm_start()
    else:
        model, tokenizer = model_args.model_name_or_path, None
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
        pairs = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
        train, held_out = pairs[script_args.dataset_train_split], pairs[script_args.dataset_test_split]

    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=training_args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, DPOConfig, ModelConfig)).parse_args_and_config())
