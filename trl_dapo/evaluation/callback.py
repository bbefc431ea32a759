"""
Held-out accuracy while an online trainer trains, measured as `trl-dapo eval` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from accelerate.logging import get_logger
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from ..host.card_results import CardResult
from ..host.own_generation import GenerationSettings, check_online, generating_aside, log_aside
from ..host.watch import watch_of
from .card_results import card_results, written_results
from .judging import as_scorer, name_of
from .results import ResultsFolder
from .runner import Problems, make_problems, scored, seeds_of
from .samples import Completion, DataSetScore, Sample, score_data_set
from .settings import TEMPERATURE, TOP_P, VLLM_BATCH_SIZE, Batch, K, Protocol, plan


logger = get_logger(__name__)

FOLDER = "evaluations"


class EvaluationCallback(TrainerCallback):
    """
    Measures avg@k, pass@k and maj@k on held-out questions during training, with intervals over questions.

    For [`~trl.GRPOTrainer`], [`~trl.RLOOTrainer`] and the online trainers of this package. Completions come from the
    trainer's own path, vLLM or transformers, and processes share the questions. With transformers, training goes on as
    without it, bit for bit. vLLM draws from a random stream of its own, which an evaluation moves on.

    Logged are `eval_<name>_avg@<k>`, `eval_<name>_pass@<k>`, `eval_<name>_maj@<k>`, `eval_<name>_unparseable`,
    `eval_<name>_truncated` and `eval_<name>_mean_length`; a data set without a name has none in its metrics. The start
    of training is measured too, and so is its last step.

    With `every="eval"`, the metrics are among those of the trainer's own evaluation, so
    `metric_for_best_model="eval_<name>_avg@<k>"`, `load_best_model_at_end` and early stopping work with them.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            The trainer, to which the callback is added.
        dataset (`datasets.Dataset`, or `dict[str, datasets.Dataset]`):
            Questions: `prompt`, what the scorer reads, and a `question_id` if there is one. Several by name.
        scorer (`str`, `Callable`, or `dict[str, str | Callable]`):
            Name of a scorer (see [`~trl_dapo.evaluation.scorers.get_scorer`]), a scorer, or any reward function of
            TRL's; by name where the data sets have different ones.
        k (`int`, *optional*, defaults to `32`):
            Completions per question.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature.
        top_p (`float`, *optional*, defaults to `0.7`):
            Share of the probability that is sampled from.
        max_new_tokens (`int`, *optional*):
            Most tokens per completion. Defaults to the trainer's `max_completion_length`.
        every (`"eval"`, `"epoch"` or `int`, *optional*, defaults to `"eval"`):
            When: with each evaluation of the trainer, after each epoch, or after so many steps.
        at_start (`bool`, *optional*, defaults to `True`):
            Whether to measure before the first step.
        batch_size (`int`, *optional*):
            Completions sampled at once by each process. The default is 1024 with vLLM, else
            `per_device_eval_batch_size`. With transformers, the draws depend on it.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all draws. The same at each step, so that curves move less.
        save (`bool`, *optional*, defaults to `True`):
            Whether to write scores and completions to `<output_dir>/evaluations/step-<n>`.

    Raises:
        `TypeError`: If the trainer is none that generates.
        `ValueError`: If a value cannot be evaluated with.

    Example:
    ```python
    trainer.add_callback(EvaluationCallback(trainer, problems, "dapo_math", k=8, every=50))
    ```
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: Dataset | Mapping[str, Any],
        scorer: str | Callable[..., Any] | Mapping[str, Any],
        k: int = K,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        max_new_tokens: int | None = None,
        every: Literal["eval", "epoch"] | int = "eval",
        at_start: bool = True,
        batch_size: int | None = None,
        seed: int = 0,
        save: bool = True,
    ) -> None:
        check_online(trainer)
        args: Any = trainer.args  # of a trainer that generates, as was checked
        _check_every(every, args)
        self._trainer: Any = trainer
        self._every, self._at_start, self._writes = every, at_start, save
        self._protocol = Protocol(
            k=k,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=args.max_completion_length if max_new_tokens is None else max_new_tokens,
            seed=seed,
            batch_size=_batch_size(trainer) if batch_size is None else batch_size,
        )
        self._problems = _problems(dataset, scorer)
        self._measured: tuple[int, dict[str, float]] | None = None
        self._resumed_at = 0
        self.results: dict[int, dict[str, DataSetScore]] = {}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Measures the start of training."""
        self._measured = None
        self._resumed_at = state.global_step
        self._stand_before_early_stopping()
        if self._at_start and state.global_step == 0:
            self._measure()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Measures every so many steps."""
        if isinstance(self._every, int) and state.global_step % self._every == 0:
            self._measure()

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        """Measures every epoch, and the last step of training."""
        last = control.should_training_stop or state.global_step >= state.max_steps
        if self._every == "epoch" or last:
            self._measure()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Measures with the trainer's evaluation, and adds to its metrics."""
        if self._every == "eval":
            found = self._measure()
            if metrics is not None:
                # The trainer chooses the best model from this very dictionary
                metrics.update(found)

    def evaluate(self) -> dict[str, DataSetScore]:
        """Returns the scores of the present policy by data set; nothing is logged or written."""
        return {name: score_data_set(found) for name, found in self.samples().items()}

    def samples(self) -> dict[str, list[Sample]]:
        """Returns completions of the present policy by data set, judged; nothing is logged or written."""
        return {one.name: self._samples(one) for one in self._problems}

    def card_results(self, step: int) -> list[CardResult]:
        """Returns the newest results that were measured at a step or before, for the model card."""
        found = card_results(self.results, step)
        if not found and self._resumed_at:
            # The run has been here before: what it measured then is in its files
            folder = Path(self._trainer.args.output_dir) / FOLDER
            return written_results(folder, min(step, self._resumed_at))
        return found

    def _measure(self) -> dict[str, float]:
        step = self._trainer.state.global_step
        # One step is asked for several times: by each data set of the trainer's evaluation, and at the end
        if self._measured is None or self._measured[0] != step or not self._trainer.is_in_train:
            samples = self.samples()
            scores = {name: score_data_set(found) for name, found in samples.items()}
            self.results[step] = scores
            self._measured = step, _metrics(scores)
            log_aside(self._trainer, self._measured[1])
            if self._writes and self._trainer.is_world_process_zero():
                self._write(step, samples, scores)
        return self._measured[1]

    def _samples(self, problems: Problems) -> list[Sample]:
        """Returns the samples of all processes, in order."""
        accelerator = self._trainer.accelerator
        batches = plan(len(problems.rows), self._protocol.k, self._protocol.batch_size)
        questions, copies = max(len(one.questions) for one in batches), max(len(one.samples) for one in batches)
        settings = GenerationSettings(
            self._protocol.temperature, self._protocol.top_p, self._protocol.max_new_tokens, copies
        )
        own: list[tuple[int, list[Sample]]] = []
        failure: str | None = None
        total, watch = len(problems.rows) * self._protocol.k, watch_of(self._trainer)
        watch.evaluates(problems.name, 0, total)
        with generating_aside(self._trainer, settings) as generate:
            for first in range(0, len(batches), accelerator.num_processes):
                # All processes generate alike, so one that has no batch left repeats the first
                number = first + accelerator.process_index
                batch = batches[number if number < len(batches) else 0]
                rows = _filled(batch, questions, copies)
                seed = seeds_of(problems, batch, self._protocol.seed)[0]
                drawn = generate([problems.rows[question]["prompt"] for question in rows], seed)
                if number < len(batches) and failure is None:
                    kept = drawn[: len(batch.rows)]  # what it is filled up with is behind
                    try:
                        own.append((number, _scored(problems, batch, kept, seed)))
                    except Exception as error:
                        # The others wait for this process, and have to learn of it
                        failure = f"{error}"
                done = sum(len(one.rows) for one in batches[: first + accelerator.num_processes])
                watch.evaluates(problems.name, done, total)
        return _gathered(own, failure)

    def _write(self, step: int, samples: dict[str, list[Sample]], scores: dict[str, DataSetScore]) -> None:
        settings = {
            **asdict(self._protocol),
            "step": step,
            "scorers": {one.name: name_of(one.scorer) for one in self._problems},
            "data_sets": {one.name: one.fingerprint() for one in self._problems},
        }
        folder = Path(self._trainer.args.output_dir) / FOLDER / f"step-{step}"
        try:
            results = ResultsFolder(folder, settings)
            for name, found in samples.items():
                results.keep(name or "questions", found)
            results.finish({name or "questions": score for name, score in scores.items()})
            results.close()
        except (ValueError, OSError) as error:
            # Not worth a run: the scores are in its log
            logger.warning(f"The evaluation of step {step} is not written: {error}")

    def _stand_before_early_stopping(self) -> None:
        """Moves before early stopping, which reads the evaluation's metrics, in whatever order the two were added."""
        callbacks = self._trainer.callback_handler.callbacks
        stops = [place for place, one in enumerate(callbacks) if isinstance(one, EarlyStoppingCallback)]
        if self in callbacks and stops and stops[0] < callbacks.index(self):
            callbacks.remove(self)
            callbacks.insert(stops[0], self)


def _batch_size(trainer: Any) -> int:
    return VLLM_BATCH_SIZE if trainer.use_vllm else trainer.args.per_device_eval_batch_size


def _check_every(every: Any, args: Any) -> None:
    if every not in ("eval", "epoch") and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise ValueError(f'every={every!r}: "eval", "epoch", or a number of steps of at least 1 is needed.')
    if every == "eval" and args.eval_strategy == "no":
        raise ValueError(
            'every="eval" with eval_strategy="no": the trainer never evaluates. Set eval_strategy, or give `every` as '
            "a number of steps."
        )


def _problems(dataset: Any, scorer: Any) -> list[Problems]:
    data_sets = dict(dataset) if isinstance(dataset, Mapping) else {"": dataset}
    if not data_sets:
        raise ValueError("dataset={}: there is no data set. Give one, or several by name.")
    scorers = scorer if isinstance(scorer, Mapping) else dict.fromkeys(data_sets, scorer)
    missing = next((name for name in data_sets if name not in scorers), None)
    if missing is not None:
        raise ValueError(f"scorer has none for the data set {missing!r}. Give one for each name, or one for all.")
    return [make_problems(name, rows, as_scorer(scorers[name])) for name, rows in data_sets.items()]


def _filled(batch: Batch, questions: int, copies: int) -> list[int]:
    """Returns the question of each row of a batch of full size: a smaller one goes on with its last question."""
    filled = [*batch.questions, *[batch.questions[-1]] * (questions - len(batch.questions))]
    return [question for question in filled for _ in range(copies)]


def _scored(problems: Problems, batch: Batch, drawn: Sequence[Any], seed: int) -> list[Sample]:
    completions = [
        Completion(
            text=one.completion if isinstance(one.completion, str) else str(one.completion[-1].get("content") or ""),
            ids=one.ids,
            truncated=one.truncated,
            seed=seed,
            message=None if isinstance(one.completion, str) else one.completion,
        )
        for one in drawn
    ]
    return scored(problems, batch, completions)


def _gathered(own: list[tuple[int, list[Sample]]], failure: str | None) -> list[Sample]:
    everyone = gather_object([(own, failure)])
    failures = [text for _, text in everyone if text is not None]
    if failures:
        raise ValueError(f"The evaluation failed: {failures[0]}")
    batches = dict(pair for pairs, _ in everyone for pair in pairs)
    return [sample for number in sorted(batches) for sample in batches[number]]


def _metrics(scores: dict[str, DataSetScore]) -> dict[str, float]:
    return {
        "_".join(part for part in ("eval", name, metric) if part): one.value
        for name, score in scores.items()
        for metric, one in score.metrics.items()
    }
