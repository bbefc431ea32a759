# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo[math,quantization]",
#     "trl",
#     "torch",
# ]
# ///

"""
DAPO with QLoRA on one consumer GPU: 4-bit weights, float32 adapters, and generation in chunks that fit.

On a card of 8 GB:

```
python examples/scripts/qlora.py \
    --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
    --dataset_name gsm8k \
    --output_dir Qwen2.5-1.5B-DAPO \
    --optim paged_adamw_8bit \
    --generation_chunk_size 16 --max_tokens_per_microbatch 4096 \
    --max_completion_length 768 --learning_rate 1e-5 --max_steps 300
trl-dapo merge Qwen2.5-1.5B-DAPO --to served
```

On a CPU, with the built-in task in place of model and data, its weights in 4 bits too:

```
python examples/scripts/qlora.py \
    --use_cpu --bf16 false \
    --output_dir arena-QLoRA \
    --per_device_train_batch_size 16 --generation_chunk_size 32 \
    --max_completion_length 40 --learning_rate 1e-3 --warmup_steps 4 --max_steps 32
echo "7a+b-c*=" > arena-prompts.txt
trl-dapo merge arena-QLoRA --to arena-served --prompts arena-prompts.txt
```
"""

from dataclasses import dataclass, field

import torch
from trl import ScriptArguments, TrlParser

from trl_dapo import DAPOConfig, DAPOTrainer, four_bit
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.evaluation.scorers import math_verify
from trl_dapo.problems import load_problems
from trl_dapo.qlora.four_bit import card_dtype


@dataclass
class QLoRAArguments(ScriptArguments):
    """Arguments of the script, the model, and the rank of its adapter."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the base."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter; alpha is twice as much."})


def main(script_args: QLoRAArguments, training_args: DAPOConfig) -> None:
    if script_args.model_name_or_path is None and script_args.dataset_name is None:
        # Weights become 4-bit when they are read from a folder
        name, scorer, problems = f"{training_args.output_dir}-base", arena_accuracy, train_dataset(2048)
        for part in load_warm_start():
            part.save_pretrained(name)
    else:
        name, scorer, split = script_args.model_name_or_path, math_verify, script_args.dataset_train_split
        problems = load_problems(script_args.dataset_name, split=split, answer_format=scorer.answer_format)

    # bfloat16, or float16 on a T4, or float32 on a CPU
    dtype = card_dtype(training_args.use_cpu)
    training_args.bf16, training_args.fp16 = dtype == "bfloat16", dtype == "float16"
    training_args.model_init_kwargs = {"dtype": dtype, **(training_args.model_init_kwargs or {})}
    trainer = DAPOTrainer(
        model=name,
        reward_funcs=scorer,
        args=training_args,
        train_dataset=problems,
        **four_bit(dtype=dtype, r=script_args.lora_r, lora_alpha=2 * script_args.lora_r),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()
    if torch.cuda.is_available():
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main(*TrlParser((QLoRAArguments, DAPOConfig)).parse_args_and_config())
