"""
Problems by name, as rows that a trainer and an evaluation take.
"""

import logging
import random
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset

from .files import ProblemError
from .gym import check_whole
from .prompts import PromptStyle, user_text
from .repeats import key_of, repeated
from .rows import (
    ENTRY,
    PROMPT,
    QUESTION_ID,
    SOLUTION,
    Rows,
    Shape,
    answer_or_entry,
    columns_of,
    numbered_apart,
    with_solutions,
)
from .rows import prompt_column as column_of_prompts
from .sources import source


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problems:
    """Rows of problems, their split, and what is worth saying of them, a line each."""

    rows: Any
    split: str
    notes: tuple[str, ...]


def load_problems(
    name: str,
    *,
    split: str | None = None,
    answer_column: str | None = None,
    prompt_column: str | None = None,
    answer_format: str | None = None,
    prompt_template: str | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """
    Returns problems with verifiable answers.

    Args:
        name (`str`):
            A name of `PROBLEM_SETS`, a file (JSON, JSON Lines, CSV, TSV, Parquet), a folder of such files, or a Hub
            id. `reasoning-gym:<task>` takes settings: `"reasoning-gym:chain_sum?min_terms=2&max_terms=3&size=1000"`.
        split (`str`, *optional*):
            Defaults to `"test"` where there is one, else to the first. Name `"train"` to train.
        answer_column (`str`, *optional*):
            Column of the answers, by its dotted name: `"reward_model.ground_truth"`. Needed where it cannot be told.
        prompt_column (`str`, *optional*):
            Column of the questions. Defaults to `prompt`, else to the only one with a name such as `question`.
        answer_format (`str`, *optional*):
            What asks for the answer in the format that a scorer reads, its `answer_format`. It is put behind each
            question that does not ask for a format itself. DAPO-Math-17k's own instruction stays if it asks for this
            one, and is taken off otherwise.
        prompt_template (`str`, *optional*):
            Text of each prompt instead, with `{question}` and, where wanted, `{answer_format}` in it.
        size (`int`, *optional*):
            Most problems to take, at random; reasoning-gym makes so many.
        seed (`int`, *optional*, defaults to 0):
            Seed of that choice, and of reasoning-gym where its name has none.

    Returns:
        `datasets.Dataset`: columns `prompt` (`list[dict]`, messages; `str` where a column `prompt` is text already),
        `solution` (`str`, "" where the `entry` alone
        tells what is right) and `question_id` (`str`, the same in each load); `entry` (`str`, JSON) where the scorer
        `reasoning_gym` can score the row.

    Raises:
        `ValueError`: One line with what is wrong: an unknown name, what cannot be fetched, a row without an answer.
        `ImportError`: If reasoning-gym is asked for and not installed.

    Example:

    ```python
    >>> from trl_dapo.problems import load_problems

    >>> problems = load_problems("reasoning-gym:chain_sum?max_terms=2", split="train", size=4)
    >>> problems.column_names
    ['prompt', 'solution', 'question_id', 'entry']
    ```
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r} names no data set: give a name such as 'gsm8k', a file, a folder, a Hub id.")
    style = PromptStyle(answer_format, prompt_template)
    check_whole("size", size, least=1)
    check_whole("seed", seed, least=0)
    loaded = read_problems(name, split, answer_column, prompt_column, style, size, seed)
    for note in loaded.notes:
        logger.warning(note)
    return loaded.rows


def read_problems(
    name: str,
    split: str | None,
    answer_column: str | None,
    prompt_column: str | None,
    style: PromptStyle,
    size: int | None = None,
    seed: int = 0,
    streaming: bool = False,
) -> Problems:
    """Returns what [`load_problems`] does, as a stream if asked for, with its notes unsaid."""
    raw = source(name, split, size, seed, streaming, answer_column)
    rows = _some(raw.rows, size, seed)
    columns = columns_of(rows)
    if not columns:
        raise ProblemError(f"{name}: the split {raw.split} has no rows.")
    question = column_of_prompts(rows, prompt_column or raw.prompt)
    shape = Shape(
        split=raw.split,
        prompt=question,
        answer=answer_or_entry(rows, answer_column or raw.answer),
        style=style,
        # As in training: a prompt that is text was written as such, a question is put to the model as a message
        conversational=question != PROMPT,
        may_be_empty=raw.may_be_empty,
        id=raw.id or (QUESTION_ID if QUESTION_ID in columns else None),
        with_id=True,
    )
    made = rows.map(shape, with_indices=True, remove_columns=[one for one in columns if one != ENTRY])
    made = with_solutions(made, shape)
    kept = [PROMPT, SOLUTION, QUESTION_ID, *([ENTRY] if ENTRY in columns else [])]
    made = made.select_columns(kept)
    if isinstance(made, Dataset):
        made = _told_apart(made)
    return Problems(made, raw.split, (*raw.notes, *notes_on(made, style, name)))


def notes_on(rows: Rows, style: PromptStyle, name: str) -> list[str]:
    """Returns a line for repeated questions, and one for prompts that ask for another format than the style's."""
    if isinstance(rows, IterableDataset):
        return []
    prompts = rows.select_columns([PROMPT])
    keys, contradicting = [], 0
    for row in prompts:
        keys.append(key_of(row[PROMPT]))
        contradicting += style.contradicted_by(user_text(row[PROMPT]))
    lines = []
    if again := repeated(keys):
        lines.append(f"{name}: {again} of {len(keys)} rows repeat the question of another row")
    if contradicting:
        lines.append(
            f"{name}: {contradicting} of {len(keys)} prompts ask for the answer in another format than the scorer "
            f"reads ({style.answer_format}). Take that out of the questions, or choose the scorer that reads it"
        )
    return lines


def _some(rows: Rows, size: int | None, seed: int) -> Rows:
    if size is None:
        return rows
    if isinstance(rows, IterableDataset):
        return rows.take(size)
    if size >= len(rows):
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), size)))


def _told_apart(rows: Dataset) -> Dataset:
    ids = list(rows[QUESTION_ID])
    apart = numbered_apart(ids)
    if apart == ids:
        return rows
    kept = rows.column_names
    return rows.remove_columns(QUESTION_ID).add_column(QUESTION_ID, apart).select_columns(kept)
