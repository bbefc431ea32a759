"""
Reading the prompt of a group once: what it saves in passes without gradient, and what it would save with gradient.

Without gradient it is what the trainer does: `_get_per_token_logps_and_entropies` of 4 groups of 8, with sharing and
with packing alone. With gradient it is a trial that the trainer does not have: the prompt and its 8 completions as one
row, under a mask that lets each completion see the prompt and itself, against 8 rows. CPU seconds, one thread.

    python benchmarks/shared_prompts.py
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, build_tokenizer
from trl_dapo.packing import logprobs as passes
from update_phase import policy


GROUPS, GENERATIONS = 4, 8


def seconds(function: Callable[[], torch.Tensor], repeats: int) -> tuple[float, torch.Tensor]:
    """Returns the median CPU seconds, and what the function returned."""
    function()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        result = function()
        found.append(time.process_time() - started)
    return statistics.median(found), result


def trainer(folder: str) -> DAPOTrainer:
    return DAPOTrainer(
        model=policy(192, 4),
        reward_funcs=arena_accuracy,
        args=DAPOConfig(
            folder,
            use_cpu=True,
            bf16=False,
            report_to="none",
            num_generations=GENERATIONS,
            per_device_train_batch_size=8,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": [str(row) for row in range(64)]}),
        processing_class=build_tokenizer(),
    )


def without_gradient(one: DAPOTrainer, prompt: int, completion: int, repeats: int) -> tuple[float, float]:
    """Returns how many times faster sharing is, and the largest difference of a log-prob."""
    size = one.model.config.vocab_size
    prompts = torch.randint(3, size, (GROUPS, prompt)).repeat_interleave(GENERATIONS, dim=0)
    ids = torch.cat([prompts, torch.randint(3, size, (len(prompts), completion))], dim=1)
    mask = torch.ones_like(ids)

    def logps() -> torch.Tensor:
        with torch.no_grad():
            return one._get_per_token_logps_and_entropies(one.model, ids, mask, completion, batch_size=8)[0]

    share = passes.SHARED
    shared, ours = seconds(logps, repeats)
    passes.SHARED = 0.0
    alone, theirs = seconds(logps, repeats)
    passes.SHARED = share
    return alone / shared, (ours - theirs).abs().max().item()


def with_gradient(model: torch.nn.Module, prompt: int, completion: int, repeats: int) -> tuple[float, float]:
    """Returns how many times faster one row under a mask is, and the relative difference of a gradient."""
    prompts = torch.randint(3, model.config.vocab_size, (1, prompt))
    completions = torch.randint(3, model.config.vocab_size, (GENERATIONS, completion))
    rows = torch.cat([prompts.expand(GENERATIONS, -1), completions], dim=1)
    flat = torch.cat([prompts, completions.reshape(1, -1)], dim=1)
    owner = torch.cat([torch.full((prompt,), -1), torch.arange(GENERATIONS).repeat_interleave(completion)])
    sees = (owner[None, :] == -1) | (owner[:, None] == owner[None, :])
    mask = (sees & torch.ones_like(sees).tril())[None, None]
    places = torch.cat([torch.arange(prompt), torch.arange(prompt, prompt + completion).repeat(GENERATIONS)])[None]

    def gradient(**inputs: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, prompt:]
        hidden.square().mean().backward()
        return model.model.layers[0].self_attn.q_proj.weight.grad.clone()

    alone, theirs = seconds(lambda: gradient(input_ids=rows), repeats)
    shared, ours = seconds(lambda: gradient(input_ids=flat, attention_mask=mask, position_ids=places), repeats)
    return alone / shared, ((ours - theirs).norm() / theirs.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(title=f"{GENERATIONS} completions per prompt: a row each, over the prompt once")
    for column in ("prompt", "completion", "fewer tokens", "no gradient", "log-probs", "with gradient", "gradients"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        one = trainer(folder)
        one.model.train()
        for prompt, completion in ((32, 128), (64, 128), (128, 128), (256, 128), (512, 128), (512, 64)):
            fewer = GENERATIONS * (prompt + completion) / (prompt + GENERATIONS * (1 + completion))
            first = without_gradient(one, prompt, completion, options.repeats)
            second = with_gradient(one.model, prompt, completion, options.repeats)
            cells = [f"{fewer:.2f}x"] + [
                cell for gain, error in (first, second) for cell in (f"{gain:.2f}x", f"{error:.0e}")
            ]
            table.add_row(str(prompt), str(completion), *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
