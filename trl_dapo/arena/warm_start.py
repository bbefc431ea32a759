"""
The arena's warm start: supervised training that turns random weights into a policy worth reinforcing.

Run `python -m trl_dapo.arena.warm_start --output FILE --seed 0` to write the weights that ship with this package, and
`--regime off-policy` for those that a regime starts from.

The demonstrator is fallible on purpose. It mixes styles that differ in accuracy and length: at temperature 1, the
policy answers at once about half of the time, and some of its self-checking completions exceed a limit of 40 tokens.
This leaves reinforcement learning something to choose between.

Every draw depends on the seed alone, and every phase has a fixed number of steps. On one thread and one machine, the
weights are the same bit for bit. Other processors round differently; then the accuracy agrees within sampling error.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import save_model
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .data import held_out_dataset
from .evaluation import ArenaScore, evaluate
from .model import SEEDS, build_model, load_warm_start
from .regimes import REGIMES
from .task import LENGTHS, Style, demonstrate, draw_problem
from .tokenizer import build_tokenizer


# Accuracy of the shipped weights: avg@8 at temperature 1 and 40 new tokens on `held_out_dataset(900)`. It falls from
# 0.47 at 2 moves to 0.10 at 10. 14 % of the completions are truncated, 8 % without an error before the cut
WARM_START_ACCURACY = 0.2635

BATCH_SIZE = 64
BATCHES_PER_POOL = 16
TYPICAL_BATCH_TOKENS = BATCH_SIZE * 20
LEARNING_RATE = 3e-3
# Longer demonstrations are cut off, and get no end-of-sequence token
MAX_DEMONSTRATION_TOKENS = 64


@dataclass(frozen=True)
class Phase:
    """
    A number of steps on one mix of demonstrations.

    Args:
        steps (`int`):
            Optimizer steps, each on 64 demonstrations.
        lengths (`tuple[int, ...]`):
            Numbers of moves, drawn uniformly.
        styles (`dict[str, float]`):
            Share of each style.
        slip (`float`):
            Probability of a wrong step.
        checks (`tuple[float, ...]`):
            Probabilities of a self-check. Each verbose demonstration draws one of them, so some are brief throughout
            and some tediously long, and the policy learns to be consistent within a completion.
    """

    steps: int
    lengths: tuple[int, ...]
    styles: dict[Style, float]
    slip: float
    checks: tuple[float, ...] = (0.5,)


CHECKS = (0.3, 0.6, 0.85)
PHASES = (
    # Walks are learned without errors and from short to long: with slips, or with all lengths at once, it takes far
    # more steps. The same goes for finding the next move after several checks
    Phase(steps=300, lengths=LENGTHS[:5], styles={"step": 1.0}, slip=0.0),
    Phase(steps=700, lengths=LENGTHS, styles={"step": 0.4, "verbose": 0.6}, slip=0.0, checks=CHECKS),
    Phase(steps=700, lengths=LENGTHS, styles={"direct": 0.5, "step": 0.15, "verbose": 0.35}, slip=0.1, checks=CHECKS),
)


# What the warm starts of regimes learn behind the phases above
FURTHER_PHASES = {
    # Answering at once is habit, and seldom right; walks are rare, slip often, and are worth learning
    "rare-steps": Phase(steps=300, lengths=LENGTHS[:5], styles={"direct": 0.88, "step": 0.12}, slip=0.25),
    # Walks seldom slip and are checked at length, so that most completions that run out of tokens are on track
    "long-winded": Phase(
        steps=400,
        lengths=LENGTHS[:6],
        styles={"direct": 0.25, "step": 0.2, "verbose": 0.55},
        slip=0.02,
        checks=(0.5, 0.7, 0.85),
    ),
}


def train_warm_start(seed: int = 0, phases: tuple[Phase, ...] = PHASES) -> LlamaForCausalLM:
    """
    Policy after the supervised phases, which use training prompts only.

    On one machine and with one number of threads, the same arguments always give the same weights.
    """
    return _train(build_model(seed), random.Random(f"warm_start/{seed}"), phases)


def train_further(name: str, seed: int = 0) -> LlamaForCausalLM:
    """
    Policy of a regime's warm start: the plain warm start of a seed after a further phase.

    Args:
        name (`str`):
            One of `FURTHER_PHASES`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the plain warm start, which must be a shipped one, and of the demonstrations.

    Raises:
        `ValueError`: If no plain warm start of the seed is shipped.
    """
    if seed not in SEEDS:
        raise ValueError(f"seed={seed} has no warm start to go on from. There are {', '.join(map(str, SEEDS))}.")
    return _train(load_warm_start(seed)[0], random.Random(f"{name}/{seed}"), (FURTHER_PHASES[name],))


def _train(model: LlamaForCausalLM, rng: random.Random, phases: tuple[Phase, ...]) -> LlamaForCausalLM:
    tokenizer = build_tokenizer()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    num_steps = sum(phase.steps for phase in phases)
    # Constant, then linear to 0 over the last third: at a high rate, style shares swing with every batch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 3 * (1 - step / num_steps)))
    for phase in phases:
        for demonstrations in _batches(phase, rng):
            optimizer.zero_grad()
            _loss(model, tokenizer, demonstrations).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def _batches(phase: Phase, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
    for step in range(phase.steps):
        if step % BATCHES_PER_POOL == 0:
            pool = [_demonstration(phase, rng) for _ in range(BATCHES_PER_POOL * BATCH_SIZE)]
            # Batches of similar length need little padding
            pool.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
            starts = list(range(0, len(pool), BATCH_SIZE))
            rng.shuffle(starts)
        start = starts[step % BATCHES_PER_POOL]
        yield pool[start : start + BATCH_SIZE]


def _demonstration(phase: Phase, rng: random.Random) -> tuple[str, str]:
    problem = draw_problem(rng, rng.choice(phase.lengths), "train")
    (style,) = rng.choices(list(phase.styles), weights=list(phase.styles.values()))
    return problem.prompt, demonstrate(problem, style, rng, slip=phase.slip, check=rng.choice(phase.checks))


def _loss(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    demonstrations: list[tuple[str, str]],
) -> torch.Tensor:
    rows, labels = [], []
    for prompt, completion in demonstrations:
        prompt_ids = tokenizer(prompt).input_ids
        completion_ids = [*tokenizer(completion).input_ids, tokenizer.eos_token_id][:MAX_DEMONSTRATION_TOKENS]
        rows.append(torch.tensor(prompt_ids + completion_ids))
        labels.append(torch.tensor([-100] * len(prompt_ids) + completion_ids))
    # Padded on the right, where the causal mask alone hides the padding
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)  # (B, T)
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)[:, 1:]  # (B, T - 1)
    logits = model(input_ids=input_ids).logits[:, :-1]  # (B, T - 1, V)
    # Every token has the same weight in every batch. A mean per batch would favor short demonstrations, and the policy
    # would answer at once far more often than the demonstrator
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / TYPICAL_BATCH_TOKENS


def main(arguments: list[str] | None = None) -> None:
    """Train, write the weights, and print how good they are on held-out problems."""
    parser = argparse.ArgumentParser(prog="python -m trl_dapo.arena.warm_start", description=main.__doc__)
    parser.add_argument("--output", required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the demonstrations")
    parser.add_argument("--regime", choices=list(REGIMES), default="default", help="regime that starts from them")
    options = parser.parse_args(arguments)
    # One thread adds in a fixed order, and is faster at this size
    torch.set_num_threads(1)
    regime = REGIMES[options.regime]
    further = regime.warm_start
    model = train_warm_start(options.seed) if further is None else train_further(further, options.seed)
    save_model(model, options.output)
    held_out = held_out_dataset(900, lengths=regime.lengths)
    score = evaluate(model, build_tokenizer(), held_out, max_new_tokens=regime.max_completion_length)
    print(_report(score))  # noqa: T201


def _report(score: ArenaScore) -> str:
    by_length = " ".join(f"{length}:{accuracy:.3f}" for length, accuracy in score.accuracy_by_length.items())
    styles = " ".join(f"{style}:{share:.3f}" for style, share in score.style_shares.items())
    return (
        f"held-out accuracy {score.accuracy:.4f} (by length {by_length})\n"
        f"styles {styles}\n"
        f"truncated {score.truncated:.3f}, without an error {score.truncated_sound:.3f}, "
        f"mean length {score.mean_length:.1f} tokens"
    )


if __name__ == "__main__":
    main()
