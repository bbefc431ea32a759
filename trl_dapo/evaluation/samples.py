"""
What an evaluation keeps of each completion, and what questions and data sets make of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .estimators import avg_at_k, ks_of, maj_at_k, pass_at_k
from .intervals import Estimate, estimate


@dataclass(frozen=True)
class Completion:
    """
    What was sampled.

    Args:
        text (`str`):
            The completion, without special tokens.
        ids (`list[int]`):
            Its tokens, with the end token.
        truncated (`bool`):
            Whether it ran out of tokens before an end token.
        seed (`int`):
            Seed that it was drawn with: its own, or that of its batch.
        message (`Any`, *optional*):
            What a scorer is given in place of the text, such as a list of messages.
    """

    text: str
    ids: list[int]
    truncated: bool
    seed: int
    message: Any = None


@dataclass(frozen=True)
class Judged:
    """
    What a scorer says about a completion.

    Args:
        outcome (`str`):
            `"right"`, `"wrong"` or `"unparseable"`.
        reward (`float`, *optional*):
            Its reward.
        answer (`str`, *optional*):
            Its answer, normalised.
        timed_out (`bool`, *optional*, defaults to `False`):
            Whether the scorer's time limit stopped it; such a completion is unparseable.
    """

    outcome: str
    reward: float | None = None
    answer: str | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class Sample:
    """One line of a samples file."""

    question_id: str
    sample: int
    completion: str
    answer: str | None
    outcome: str
    reward: float | None
    tokens: int
    truncated: bool
    seed: int
    timed_out: bool = False


@dataclass(frozen=True)
class QuestionScore:
    """
    Scores of one question.

    Args:
        question_id (`str`):
            The question.
        samples (`int`):
            Number of its samples.
        right (`int`):
            How many are right.
        metrics (`dict[str, float]`):
            Scores by name: `avg@k`, `pass@k`, `maj@k`, `unparseable`, `timed_out`, `truncated`, `mean_length`,
            `mean_reward`.
    """

    question_id: str
    samples: int
    right: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class DataSetScore:
    """
    Scores of a data set.

    Args:
        questions (`list[QuestionScore]`):
            Its questions, in order.
        metrics (`dict[str, Estimate]`):
            Means over questions by name, with intervals.
    """

    questions: list[QuestionScore]
    metrics: dict[str, Estimate]


def make_sample(question_id: str, sample: int, drawn: Completion, judged: Judged) -> Sample:
    """Returns the line of a completion."""
    return Sample(
        question_id=question_id,
        sample=sample,
        completion=drawn.text,
        answer=judged.answer,
        outcome=judged.outcome,
        reward=judged.reward,
        tokens=len(drawn.ids),
        truncated=drawn.truncated,
        seed=drawn.seed,
        timed_out=judged.timed_out,
    )


def score_question(samples: Sequence[Sample], votes: bool) -> QuestionScore:
    """
    Returns the scores of one question.

    Args:
        samples (`Sequence[Sample]`):
            All its samples.
        votes (`bool`):
            Whether the scorer gives answers, so that there is a majority.
    """
    count, right = len(samples), [one.outcome == "right" for one in samples]
    metrics = {f"avg@{count}": avg_at_k(right)}
    metrics |= {f"pass@{k}": pass_at_k(count, sum(right), k) for k in ks_of(count)}
    if votes:
        # What cannot be parsed has no vote, whatever was found in it
        answers = [None if one.outcome == "unparseable" else one.answer for one in samples]
        metrics[f"maj@{count}"] = maj_at_k(answers, right)
    metrics["unparseable"] = fmean(one.outcome == "unparseable" for one in samples)
    metrics["timed_out"] = fmean(one.timed_out for one in samples)
    metrics["truncated"] = fmean(one.truncated for one in samples)
    metrics["mean_length"] = fmean(one.tokens for one in samples)
    rewards = [one.reward for one in samples if one.reward is not None]
    if rewards:
        metrics["mean_reward"] = fmean(rewards)
    return QuestionScore(samples[0].question_id, count, sum(right), metrics)


def score_data_set(samples: Sequence[Sample]) -> DataSetScore:
    """
    Returns the scores of a data set, over questions in the order of their first samples.

    Raises:
        `ValueError`: If there are no samples.
    """
    by_question: dict[str, list[Sample]] = {}
    for one in samples:
        by_question.setdefault(one.question_id, []).append(one)
    # A reward function gives no answers. Where nothing could be parsed, nothing tells it from a scorer
    parsed = [one for one in samples if one.outcome != "unparseable"]
    votes = not parsed or any(one.answer is not None for one in parsed)
    ordered = [sorted(group, key=lambda one: one.sample) for group in by_question.values()]
    questions = [score_question(group, votes) for group in ordered]
    names = dict.fromkeys(name for question in questions for name in question.metrics)
    metrics = {
        name: estimate([question.metrics[name] for question in questions if name in question.metrics])
        for name in names
    }
    return DataSetScore(questions, metrics)
