"""
Data sets by name, and what the arguments say of the columns and prompts of any data set.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_dapo.evaluation.scorers import SCORERS, get_scorer
from trl_dapo.problems.catalogue import CATALOGUE, GYM, is_problem_set
from trl_dapo.problems.files import ProblemError
from trl_dapo.problems.gym import check_task, is_installed, read_task
from trl_dapo.problems.load import Problems, notes_on, read_problems
from trl_dapo.problems.prompts import PromptStyle
from trl_dapo.problems.rows import (
    PROMPT,
    SOLUTION,
    Rows,
    Shape,
    answer_column,
    answer_or_entry,
    columns_of,
    prompt_column,
    with_solutions,
)
from trl_dapo.problems.sources import checked_split, is_named

from .errors import UsageError, one_line
from .hub import check_dataset


@dataclass(frozen=True)
class Shaped:
    """Rows with the columns that the arguments ask for, and what is worth saying of them, a line each."""

    rows: Any
    notes: tuple[str, ...] = ()


def named(script_args: Any, dataset_args: Any) -> bool:
    """Returns whether the dataset is one of the catalogue's: a mixture, a file and a folder come first."""
    return not dataset_args.datasets and script_args.dataset_name is not None and is_named(script_args.dataset_name)


def prompt_style(script_args: Any) -> PromptStyle:
    """Returns how questions become prompts: with the answer format of the first scorer, or the user's template."""
    first = next(iter(_scorers(script_args)), None)
    answer_format = None if first is None else get_scorer(first).answer_format
    try:
        return PromptStyle(answer_format, script_args.prompt_template)
    except ProblemError as error:
        raise UsageError(one_line(error)) from error


def load_named(script_args: Any, split: str) -> Problems:
    """Returns a split of a data set with a name; raises [`UsageError`] for a row that is no problem."""
    name = script_args.dataset_name
    try:
        return read_problems(
            name,
            split,
            script_args.answer_column,
            script_args.prompt_column,
            prompt_style(script_args),
            streaming=script_args.dataset_streaming,
        )
    except (ProblemError, ImportError) as error:
        # What is wrong with the name begins with it
        line = one_line(error)
        raise UsageError(f"dataset_name={line}" if line.startswith(name) else line) from error


def shaped(script_args: Any, rows: Rows, split: str) -> Shaped:
    """
    Returns rows with `prompt` and `solution` as the arguments ask for, and untouched if they ask for nothing.

    They do with `answer_column`, `prompt_column` or `prompt_template`, or with a scorer, which reads `solution` and
    whose answer format each prompt must ask for. The other columns stay.
    """
    asked, scorers = script_args.answer_column, _scorers(script_args)
    if not (asked or script_args.prompt_column or script_args.prompt_template or scorers):
        return Shaped(rows)
    question = prompt_column(rows, script_args.prompt_column)
    by_entry = scorers == ["reasoning_gym"]
    answer = None
    if asked or scorers:
        answer = answer_or_entry(rows, asked) if by_entry else answer_column(rows, asked)
    style = prompt_style(script_args)
    # A prompt that is text was written as such; a question is put to the model as a message
    shape = Shape(split, question, answer, style, conversational=question != PROMPT, may_be_empty=by_entry)
    columns = columns_of(rows)
    made = rows.map(shape, with_indices=True)
    if by_entry:
        made = with_solutions(made, shape)
    of_data = f"the {split} split"
    replaced = [
        f"{of_data}: its column `{column}` is replaced by `{by}`"
        for column, by in ((PROMPT, question), (SOLUTION, answer))
        if column in columns and by not in (column, None)
    ]
    return Shaped(made, (*replaced, *notes_on(made, style, of_data)))


def check_options(script_args: Any, dataset_args: Any, training_args: Any) -> None:
    """Raises [`UsageError`] for options of problems and scorers that cannot be meant; reads no rows."""
    prompt_style(script_args)
    for option in ("answer_column", "prompt_column", "prompt_template"):
        value = getattr(script_args, option)
        if value is not None and not (script_args.dataset_name or dataset_args.datasets):
            raise UsageError(f"{option}={value}: the built-in task has its own. Leave it out, or give dataset_name.")
    formats = {get_scorer(name).answer_format: name for name in reversed(_scorers(script_args))}
    if len(formats) > 1 and script_args.prompt_template is None:
        first, *others = reversed(list(formats.values()))
        script_args.notes.append(
            f"the prompts ask for the answer in the format of {first}; {', '.join(others)} reads another"
        )
    if named(script_args, dataset_args):
        _check_named(script_args, training_args)
    elif script_args.dataset_name and is_problem_set(script_args.dataset_name) and not dataset_args.datasets:
        name = script_args.dataset_name
        script_args.notes.append(f"dataset_name={name} is the {_kind(name)} of that name here, not the data set")


def can_read_named(script_args: Any) -> bool:
    """Looks a data set with a name up; returns whether it can be read now. In a dry run, only what is made up can."""
    name = script_args.dataset_name
    if not script_args.dry_run:
        if not name.startswith(GYM):
            check_dataset(f"dataset_name={name} is {CATALOGUE[name].hub}", CATALOGUE[name].hub)
        return True
    place = "made by reasoning-gym" if name.startswith(GYM) else f"{CATALOGUE[name].place} on the Hub"
    script_args.notes.append(
        f"dataset_name={name} is {place}, split {script_args.dataset_train_split}; it was not read: a dry run "
        "downloads and makes nothing"
    )
    return False


def _check_named(script_args: Any, training_args: Any) -> None:
    name, config = script_args.dataset_name, script_args.dataset_config
    known = None if name.startswith(GYM) else CATALOGUE[name].config
    if config not in (None, known):
        raise UsageError(f"dataset_config={config}: {name} has {known or 'no config'}. Leave it out.")
    try:
        checked_split(name, script_args.dataset_train_split, "dataset_train_split")
        if training_args.eval_strategy != "no":
            checked_split(name, script_args.dataset_test_split, "dataset_test_split")
        if name.startswith(GYM):
            _check_gym(script_args)
    except ProblemError as error:
        line = one_line(error)
        raise UsageError(f"dataset_name={line}" if line.startswith(name) else line) from error
    wrong = [one for one in _scorers(script_args) if one != "reasoning_gym"]
    if wrong and not name.startswith(GYM) and CATALOGUE[name].answer is None:
        raise UsageError(
            f"reward_funcs: {wrong[0]} compares with one right answer, and a problem of {name} has many. Use "
            "reasoning_gym, which works the expression out."
        )


def _check_gym(script_args: Any) -> None:
    name = script_args.dataset_name
    if is_installed():
        check_task(name)
    elif script_args.dry_run:
        read_task(name)
        script_args.notes.append(f"dataset_name={name} was not checked: reasoning-gym is not installed here")
    else:
        raise UsageError(f"dataset_name={name} needs reasoning-gym: pip install 'trl-dapo[gym]'.")


def _scorers(script_args: Any) -> list[str]:
    return [name for name in script_args.reward_funcs or [] if name in SCORERS]


def _kind(name: str) -> str:
    return "folder" if Path(name).is_dir() else "file"
