"""
Measures an arena policy: accuracy of sampled completions, by length, and the share that ran out of tokens.
"""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..host.modes import eval_mode
from .task import Style, arena_accuracy, is_sound, style_of


@dataclass(frozen=True)
class Sample:
    """
    One sampled completion and its score.

    Args:
        prompt (`str`):
            Input of the policy.
        completion (`str`):
            Text that it sampled, without special tokens.
        accuracy (`float`):
            1.0 if the completion is right, else 0.0.
        truncated (`bool`):
            Whether it reached `max_new_tokens` without an end-of-sequence token.
        num_tokens (`int`):
            Length in tokens, the end-of-sequence token included.
    """

    prompt: str
    completion: str
    accuracy: float
    truncated: bool
    num_tokens: int


@dataclass(frozen=True)
class ArenaScore:
    """
    Result of [`evaluate`], over all samples of all prompts.

    Args:
        accuracy (`float`):
            Share of right completions (avg@samples).
        accuracy_by_length (`dict[int, float]`):
            The same for each number of moves.
        style_shares (`dict[str, float]`):
            Share of `"direct"`, `"step"` and `"verbose"` completions.
        truncated (`float`):
            Share of completions that ran out of tokens.
        truncated_sound (`float`):
            Share of completions that ran out of tokens without an uncorrected error: lost only to the limit.
        mean_length (`float`):
            Tokens per completion, the end-of-sequence token included.
        right ([`Sample`], *optional*):
            First right completion, `None` if there is none.
        wrong ([`Sample`], *optional*):
            First wrong completion, `None` if there is none.
    """

    accuracy: float
    accuracy_by_length: dict[int, float]
    style_shares: dict[Style, float]
    truncated: float
    truncated_sound: float
    mean_length: float
    right: Sample | None
    wrong: Sample | None


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    samples: int = 8,
    temperature: float = 1.0,
    max_new_tokens: int = 40,
    seed: int = 0,
    batch_size: int = 256,
) -> ArenaScore:
    """
    Score of a policy on arena problems, from the completions that [`sample`] returns for the same arguments.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Policy to sample from, in eval mode.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, which pads on the left.
        dataset (`datasets.Dataset`):
            Rows with a `prompt` and its `length` in moves, as from [`held_out_dataset`]. Must not be empty.
        samples (`int`, *optional*, defaults to `8`):
            Completions per prompt.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature, above 0. Neither top-k nor top-p is applied.
        max_new_tokens (`int`, *optional*, defaults to `40`):
            Most tokens per completion.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sampling. The draws also depend on `batch_size`.
        batch_size (`int`, *optional*, defaults to `256`):
            Completions sampled at once.
    """
    scored = sample(model, tokenizer, dataset, samples, temperature, max_new_tokens, seed, batch_size)
    return _summarise(scored, [length for length in dataset["length"] for _ in range(samples)])


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    samples: int = 8,
    temperature: float = 1.0,
    max_new_tokens: int = 40,
    seed: int = 0,
    batch_size: int = 256,
) -> list[Sample]:
    """
    Completions of a policy with their scores, grouped by prompt. The arguments are those of [`evaluate`].

    On one machine, the same arguments always give the same completions. The global random state and the train/eval
    mode of every submodule are left as they were.
    """
    generation_config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Samples of one prompt are contiguous, as in a group
    prompts = [prompt for prompt in dataset["prompt"] for _ in range(samples)]
    scored: list[Sample] = []
    with eval_mode(model), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for first in range(0, len(prompts), batch_size):
            scored += _sample(model, tokenizer, prompts[first : first + batch_size], generation_config)
    return scored


def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    generation_config: GenerationConfig,
) -> list[Sample]:
    inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    # The annotation cannot name the mixin with `generate`: PEFT models have the method without the mixin
    ids = model.generate(**inputs, generation_config=generation_config)  # ty: ignore[not-callable]
    completion_ids = ids[:, inputs["input_ids"].shape[1] :]  # (B, T)
    is_eos = completion_ids == tokenizer.eos_token_id
    ended = is_eos.any(dim=1)
    # Up to the first end-of-sequence token. Counting non-padding tokens would miss a padding token that was sampled
    num_tokens = torch.where(ended, is_eos.int().argmax(dim=1) + 1, is_eos.shape[1])
    completions = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    rewards = arena_accuracy(prompts, completions)
    return [
        Sample(prompt, completion, reward, truncated=not end, num_tokens=tokens)
        for prompt, completion, reward, end, tokens in zip(
            prompts, completions, rewards, ended.tolist(), num_tokens.tolist(), strict=True
        )
    ]


def _summarise(scored: list[Sample], lengths: list[int]) -> ArenaScore:
    by_length: dict[int, list[float]] = defaultdict(list)
    for sample, length in zip(scored, lengths, strict=True):
        by_length[length].append(sample.accuracy)
    styles = [style_of(sample.completion) for sample in scored]
    return ArenaScore(
        accuracy=fmean(sample.accuracy for sample in scored),
        accuracy_by_length={length: fmean(by_length[length]) for length in sorted(by_length)},
        style_shares={style: styles.count(style) / len(styles) for style in ("direct", "step", "verbose")},
        truncated=fmean(sample.truncated for sample in scored),
        truncated_sound=fmean(sample.truncated and is_sound(sample.prompt, sample.completion) for sample in scored),
        mean_length=fmean(sample.num_tokens for sample in scored),
        right=next((sample for sample in scored if sample.accuracy == 1.0), None),
        wrong=next((sample for sample in scored if sample.accuracy == 0.0), None),
    )
