"""
Held-out accuracy during a training command: `--held_out` and the options beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset

from trl_dapo.evaluation.callback import EvaluationCallback
from trl_dapo.evaluation.estimators import ks_of
from trl_dapo.evaluation.generation import SamplingError, Text
from trl_dapo.evaluation.scorers import SCORERS
from trl_dapo.problems.catalogue import is_problem_set
from trl_dapo.problems.prompts import user_text
from trl_dapo.problems.repeats import key_of, shared

from .arguments import Arguments
from .errors import UsageError, one_line
from .questions import ARENA, default_scorer, questions, scorer_of
from .reward_names import scoring_arguments


logger = get_logger(__name__)

OPTIONS = ("held_out_scorer", "held_out_k", "held_out_size", "held_out_every")
WHEN = ("eval", "epoch")
SHARES = ("unparseable", "timed_out", "truncated", "mean_length", "mean_reward")


def check_held_out(arguments: Arguments) -> None:
    """Raises [`UsageError`] for options that cannot be meant, and where a data set cannot be loaded."""
    script_args, training_args, *_ = arguments
    names = script_args.held_out or []
    if not names:
        _check_nothing_beside(script_args)
        return
    called = [_metric_name(name) for name in names]
    again = next((name for name in called if called.count(name) > 1), None)
    if again is not None:
        raise UsageError(f"held_out names {again} twice, and the metrics could not be told apart. Name it once.")
    for option in ("held_out_k", "held_out_size"):
        if getattr(script_args, option) is not None and getattr(script_args, option) < 1:
            raise UsageError(f"{option}={getattr(script_args, option)}: a number of at least 1 is needed.")
    if when(script_args, training_args) == "eval" and training_args.eval_strategy == "no":
        raise UsageError(
            "held_out_every=eval with eval_strategy=no: nothing is ever evaluated. Set eval_strategy, or give a "
            "number of steps."
        )
    _check_best(script_args, training_args, called)
    if script_args.dry_run and not all(_is_here(name) for name in names):
        script_args.notes.append(f"held_out={' '.join(names)} was not read: a dry run downloads nothing")
        return
    held_out(script_args)


def _check_best(script_args: Any, training_args: Any, called: list[str]) -> None:
    """Raises [`UsageError`] for a `metric_for_best_model` that the first evaluation would not find."""
    asked = training_args.metric_for_best_model
    bare = (asked or "").removeprefix("eval_")
    name = max((one for one in called if bare.startswith(f"{one}_")), key=len, default=None)
    if name is None or training_args.eval_strategy == "no":
        return
    if when(script_args, training_args) != "eval":
        raise UsageError(
            f"metric_for_best_model={asked} with held_out_every={script_args.held_out_every}: the best model is "
            "chosen by what is measured with the trainer's evaluations. Leave out held_out_every, or set it to eval."
        )
    k = script_args.held_out_k
    known = [f"{name}_{metric}" for metric in (f"avg@{k}", *(f"pass@{n}" for n in ks_of(k)), f"maj@{k}", *SHARES)]
    if bare not in known:
        raise UsageError(
            f"metric_for_best_model={asked}: with held_out_k={k}, the metrics of {name} are "
            f"{', '.join(f'eval_{one}' for one in known)}. Choose among them."
        )


def measure_held_out(trainer: Any, arguments: Arguments) -> None:
    """Gives a trainer the callback that measures accuracy on the data sets of `held_out`."""
    script_args, training_args, *_ = arguments
    if not script_args.held_out:
        return
    found = held_out(script_args)
    data = {name: _asked_alike(rows, trainer.train_dataset) for name, (rows, _) in found.items()}
    for name, rows in data.items():
        _check_readable(name, rows, trainer.processing_class)
        _tell_of_leak(name, rows, trainer.train_dataset)
    judges = {name: judge for name, (_, judge) in found.items()}
    every = when(script_args, training_args)
    trainer.add_callback(EvaluationCallback(trainer, data, judges, k=script_args.held_out_k, every=every))


def held_out(script_args: Any) -> dict[str, tuple[Any, Any]]:
    """Returns rows and scorer of each data set, by the name that its metrics have."""
    found = {}
    for name in script_args.held_out:
        how = {"size": script_args.held_out_size, **_shape(script_args, name)}
        try:
            judge = scorer_of(_scorer_name(script_args, name), **scoring_arguments(script_args))
            found[_metric_name(name)] = questions(name, judge, **how), judge
        except (ValueError, ImportError) as error:
            raise UsageError(f"held_out={name}: {one_line(error)}") from error
    return found


def when(script_args: Any, training_args: Any) -> Any:
    """Returns when is measured: `"eval"`, `"epoch"`, or a number of steps."""
    asked = script_args.held_out_every
    if asked is None:
        return "epoch" if training_args.eval_strategy == "no" else "eval"
    if asked in WHEN:
        return asked
    if not (asked.isdecimal() and int(asked) > 0):
        raise UsageError(f"held_out_every={asked}: a number of steps of at least 1, or epoch, or eval, is needed.")
    return int(asked)


def _metric_name(data_set: str) -> str:
    """A file or folder is called as it is without its folders and its suffix."""
    return Path(data_set).stem if Path(data_set).exists() else data_set


def _shape(script_args: Any, data_set: str) -> dict[str, Any]:
    """Returns how questions become prompts: as in training, so that the policy is asked in the same way."""
    columns = (
        ("prompt_template",) if is_problem_set(data_set) else ("prompt_template", "prompt_column", "answer_column")
    )
    return {} if data_set == ARENA else {name: getattr(script_args, name) for name in columns}


def _scorer_name(script_args: Any, data_set: str) -> str:
    if script_args.held_out_scorer is not None:
        return script_args.held_out_scorer
    own = default_scorer(data_set)
    trained_with = next((name for name in script_args.reward_funcs or [] if name in SCORERS), own)
    # Training and evaluation mean the same by "right", unless the data set has a scorer of its own
    return trained_with if own == "dapo_math" else own


def _is_here(name: str) -> bool:
    return name == ARENA or Path(name).exists() or (is_problem_set(name) and name.startswith("reasoning-gym:"))


def _check_nothing_beside(script_args: Any) -> None:
    defaults = {one: type(script_args).__dataclass_fields__[one].default for one in OPTIONS}
    given = next((name for name, default in defaults.items() if getattr(script_args, name) != default), None)
    if given is not None:
        raise UsageError(
            f"{given}={getattr(script_args, given)} has no effect without held_out. Name the data sets to measure "
            "accuracy on, or leave it out."
        )


def _asked_alike(rows: Any, train: Any) -> Any:
    """Returns the rows with prompts that are text where the policy is trained on text, and messages where on these."""
    first: Mapping[str, Any] = next(iter(train), {})
    if not isinstance(rows, Dataset) or isinstance(first.get("prompt"), str) == isinstance(rows[0]["prompt"], str):
        return rows
    if isinstance(first.get("prompt"), str):
        return Dataset.from_list([{**row, "prompt": user_text(row["prompt"])} for row in rows])
    return Dataset.from_list([{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows])


def _check_readable(name: str, rows: Any, tokenizer: Any) -> None:
    """Raises [`UsageError`] for prompts that the policy's tokenizer cannot read, as that of the built-in task."""
    prompts = [row["prompt"] for row in rows]
    if isinstance(prompts[0], str):
        try:
            Text(tokenizer).encode(prompts)
        except SamplingError as error:
            raise UsageError(f"held_out={name}: {one_line(error)}") from error


def _tell_of_leak(name: str, rows: Any, train: Any) -> None:
    if not isinstance(train, Dataset) or "prompt" not in train.column_names:
        return
    asked = [key_of(row["prompt"]) for row in rows if isinstance(row, Mapping)]
    both = shared([key_of(prompt) for prompt in train["prompt"]], asked)
    if both:
        logger.warning(f"held_out={name}: {both} of its {len(set(asked))} questions are also trained on.")
