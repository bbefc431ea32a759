"""
Measures the policy of a trainer on the questions of an ablation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..evaluation.callback import EvaluationCallback
from ..evaluation.judging import as_scorer, name_of
from ..evaluation.samples import Sample, score_data_set
from .results import DataSet, Question, SampleCompletion
from .run_spec import Measuring


# Completions that a result keeps: right and wrong ones
SHOWN = 3
NEVER = 2**62  # steps


@dataclass(frozen=True)
class Measured:
    """What was found: scores by data set, and a few completions of the first one."""

    data_sets: Mapping[str, DataSet]
    completions: tuple[SampleCompletion, ...]


class Measurement:
    """
    Questions with their scorers, asked of a trainer's policy. Training goes on as without it, bit for bit.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            The trainer.
        data (`dict[str, Any]`):
            Rows with a `prompt`, by name of data set.
        scorers (`dict[str, Any]`):
            Who judges the answers, by name of data set.
        how ([`Measuring`]):
            How completions are sampled.
    """

    def __init__(self, trainer: Any, data: Mapping[str, Any], scorers: Mapping[str, Any], how: Measuring) -> None:
        self._scorers = {name: name_of(as_scorer(scorers[name])) for name in data}
        sampled: dict[str, Any] = {"temperature": how.temperature, "top_p": how.top_p, "batch_size": how.batch_size}

        def asked(k: int) -> EvaluationCallback:
            return EvaluationCallback(trainer, data, scorers, k=k, every=NEVER, save=False, **sampled)

        self._at_end, self._on_the_way = asked(how.k), asked(how.k_on_the_way)
        self._prompts = {name: [row["prompt"] for row in rows] for name, rows in data.items()}

    def at_end(self) -> Measured:
        """Returns what the policy scores with all its completions."""
        drawn = self._at_end.samples()
        first = next(iter(drawn))
        return Measured(
            data_sets={name: self._data_set(name, samples) for name, samples in drawn.items()},
            completions=tuple(_shown(drawn[first], self._prompts[first])),
        )

    def on_the_way(self) -> dict[str, float]:
        """Returns the share of right completions by data set, from a few completions per question."""
        return {name: _right(samples) for name, samples in self._on_the_way.samples().items()}

    def _data_set(self, name: str, samples: list[Sample]) -> DataSet:
        score = score_data_set(samples)
        return DataSet(
            scorer=self._scorers[name],
            questions=tuple(Question(one.question_id, one.samples, one.right) for one in score.questions),
            truncated=score.metrics["truncated"].value,
            mean_length=score.metrics["mean_length"].value,
        )


def _right(samples: list[Sample]) -> float:
    return sum(one.outcome == "right" for one in samples) / len(samples)


def _shown(samples: list[Sample], prompts: list[Any]) -> list[SampleCompletion]:
    """Returns the first right and the first wrong ones, each of another question."""
    found: dict[bool, dict[str, SampleCompletion]] = {True: {}, False: {}}
    numbers = {id: number for number, id in enumerate(dict.fromkeys(one.question_id for one in samples))}
    for one in samples:
        right = one.outcome == "right"
        if len(found[right]) < SHOWN and one.question_id not in found[right]:
            prompt = _text(prompts[numbers[one.question_id]])
            found[right][one.question_id] = SampleCompletion(prompt, one.completion, right)
    return [*found[True].values(), *found[False].values()]


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in prompt)
