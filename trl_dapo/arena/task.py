"""
The arena's task: a robot walks on a ring of 10 cells, and the completion says where it stops.

`7a+b-c*=` means: start on cell 7; move `a` goes one cell up, move `b` one cell down, and move `c` to the mirror cell
(`s -> 9 - s`). A completion may answer at once (`#2`), go step by step (`a+8b-7c*2#2`), or check itself on the way
(`a+8b-6?7c*2?2#2`, where `?7` restates the robot's cell). Mirroring does not commute with the other two moves, so
counting moves is no shortcut.

In here: problems, their split, demonstrations, and the scoring of completions, in plain Python. Not in here: tensors,
tokens, datasets. Whether a prompt is for training or held out depends on its text alone, not on a seed.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


RING = 10
TAGS = "abcdefghij"
MOVES = "+-*"
LENGTHS = tuple(range(2, len(TAGS) + 1))

# One prompt in five is held out
HELD_OUT_MODULUS = 5

Split = Literal["train", "held_out"]
Style = Literal["direct", "step", "verbose"]


@dataclass(frozen=True)
class Problem:
    """
    A start cell and the moves that follow.

    Args:
        start (`int`):
            Cell on which the robot starts, in `[0, 9]`.
        moves (`str`):
            One of `+`, `-`, `*` per move, at most 10 of them. The first move has tag `a`, the second `b`, and so on.

    Example:
    ```python
    >>> problem = Problem(7, "+-*")
    >>> problem.prompt, problem.cells, problem.answer
    ('7a+b-c*=', (8, 7, 2), '2')
    ```
    """

    start: int
    moves: str

    @property
    def prompt(self) -> str:
        return f"{self.start}{''.join(tag + move for tag, move in zip(TAGS, self.moves, strict=False))}="

    @property
    def cells(self) -> tuple[int, ...]:
        """Cell after each move."""
        cells = [self.start]
        for move in self.moves:
            cells.append(apply_move(cells[-1], move))
        return tuple(cells[1:])

    @property
    def answer(self) -> str:
        return str(self.cells[-1])


def apply_move(cell: int, move: str) -> int:
    """Cell that the robot reaches from `cell` with one `move`."""
    if move == "+":
        return (cell + 1) % RING
    if move == "-":
        return (cell - 1) % RING
    if move == "*":
        return RING - 1 - cell
    raise ValueError(f"move must be one of {MOVES!r}, got {move!r}")


def parse_prompt(prompt: str) -> Problem:
    """
    Problem that a prompt states.

    Args:
        prompt (`str`):
            Such as `"7a+b-c*="`.

    Raises:
        `ValueError`: If `prompt` is not exactly what [`Problem`] writes. Prompts come from a dataset, so a malformed
            one is a defect to report, not a reward of 0.
    """
    moves = prompt[2:-1:2]
    if prompt[:1] in tuple("0123456789") and 1 <= len(moves) <= len(TAGS) and set(moves) <= set(MOVES):
        problem = Problem(int(prompt[0]), moves)
        if problem.prompt == prompt:
            return problem
    raise ValueError(f"prompt must look like '7a+b-c*=' with 1 to {len(TAGS)} moves, got {prompt!r}")


# Problems and their split


def is_held_out(prompt: str) -> bool:
    """
    Whether a prompt is kept out of training. It depends on the text alone.

    There are few short prompts (90 with 2 moves), so two independent draws would share most of them. Hence the split
    is by prompt and not by draw.

    Args:
        prompt (`str`):
            Such as `"7a+b-c*="`.
    """
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_MODULUS == 0


def draw_problem(rng: random.Random, length: int, split: Split) -> Problem:
    """Problem of `length` moves, uniform over the prompts of `split`."""
    if length not in LENGTHS:
        raise ValueError(f"length must be in [{LENGTHS[0]}, {LENGTHS[-1]}] moves, got {length}")
    while True:
        problem = Problem(rng.randrange(RING), "".join(rng.choices(MOVES, k=length)))
        if is_held_out(problem.prompt) == (split == "held_out"):
            return problem


def draw_problems(size: int, seed: int, lengths: Sequence[int], split: Split) -> list[Problem]:
    """
    `size` problems of `split`, in which prompts may repeat. The same arguments always give the same problems.

    Row `i` has `lengths[i % len(lengths)]` moves, so every length has the same share.
    """
    # `Random` hashes a string seed with SHA-512, not with hash(), so PYTHONHASHSEED does not matter
    rng = random.Random(f"{split}/{seed}")
    return [draw_problem(rng, lengths[i % len(lengths)], split) for i in range(size)]


# Demonstrations


def demonstrate(
    problem: Problem,
    style: Style,
    rng: random.Random,
    slip: float = 0.0,
    check: float = 0.6,
    repair: float = 0.9,
) -> str:
    """
    Completion that a fallible demonstrator writes for a problem.

    Args:
        problem ([`Problem`]):
            Problem to solve.
        style (`str`):
            `"direct"` states only the answer and never errs, `"step"` states the cell after each move, and
            `"verbose"` adds self-checks `?v` after the steps.
        rng (`random.Random`):
            Source of the slips and checks.
        slip (`float`, *optional*, defaults to `0.0`):
            Probability that a step states a wrong cell. The walk continues from the stated cell, so an error that no
            check repairs is carried to the end.
        check (`float`, *optional*, defaults to `0.6`):
            Probability of a check after a step, and of another after each check: on average `check / (1 - check)`
            checks per step. Must be below 1.
        repair (`float`, *optional*, defaults to `0.9`):
            Probability that a check on a wrong cell states the right one. Otherwise it repeats the wrong one.

    Example:
    ```python
    >>> demonstrate(Problem(7, "+-*"), "step", random.Random(0))
    'a+8b-7c*2#2'
    ```
    """
    if style == "direct":
        return f"#{problem.answer}"
    cell, parts = problem.start, []
    for tag, move in zip(TAGS, problem.moves, strict=False):
        right = cell = apply_move(cell, move)
        if rng.random() < slip:
            cell = (right + rng.randrange(1, RING)) % RING
        parts.append(f"{tag}{move}{cell}")
        while style == "verbose" and rng.random() < check:
            if rng.random() < repair:
                cell = right
            parts.append(f"?{cell}")
    return f"{''.join(parts)}#{cell}"


# Scoring


def arena_accuracy(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    """
    1.0 for each completion that ends in `#` and the right cell, else 0.0: a reward function for TRL.

    One `#` with one digit after it must end the completion. A second answer makes it wrong, and so do spaces or
    trailing characters. What comes before the `#` is not judged. The answer is computed from the prompt, so the
    dataset needs no `answer` column.

    Args:
        prompts (`list[str]`):
            Prompts as [`Problem`] writes them.
        completions (`list[str]`):
            Completions, decoded without special tokens.
        **kwargs:
            What TRL passes to every reward function; not read.

    Example:
    ```python
    >>> arena_accuracy(["7a+b-c*="] * 3, ["a+8b-7c*2#2", "#2", "#2#2"])
    [1.0, 1.0, 0.0]
    ```
    """
    return [
        float(_final(completion) == parse_prompt(prompt).answer)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


# The rewards of a wrong and a right answer, from which the length penalty has its scale
arena_accuracy.reward_range = (0.0, 1.0)  # ty: ignore[missing-attribute]


def _final(completion: str) -> str | None:
    _, mark, final = completion.partition("#")
    return final if mark else None


def style_of(completion: str) -> Style:
    """
    Style of a completion, judged by its marks alone, whether it is right or finished or not.

    Args:
        completion (`str`):
            Decoded without special tokens.
    """
    if "?" in completion:
        return "verbose"
    return "direct" if completion.startswith("#") else "step"


def is_sound(prompt: str, completion: str) -> bool:
    """
    Whether a completion, finished or cut off anywhere, contains no uncorrected error.

    Every step must name the next move of the prompt, and the last cell stated before the next step (or before `#`)
    must be right, so a slip that a check repairs is sound. The unwritten rest of a completion does not count against
    it. This separates truncated completions that were still on track from those that were already wrong.

    Args:
        prompt (`str`):
            Such as `"7a+b-c*="`.
        completion (`str`):
            A completion of it, decoded without special tokens.

    Example:
    ```python
    >>> is_sound("7a+b-c*=", "a+8b-6?7c"), is_sound("7a+b-c*=", "a+8b-6c")
    (True, False)
    ```
    """
    problem = parse_prompt(prompt)
    body, mark, final = completion.partition("#")
    # "a+8b-7c*" -> ["a+8", "b-7", "c*"]
    steps = re.findall("[a-j][^a-j]*", body)
    if "".join(steps) != body or len(steps) > len(problem.moves):
        return False
    done, last = (steps, "") if mark else (steps[:-1], "".join(steps[-1:]))
    heads = [tag + move for tag, move in zip(TAGS, problem.moves, strict=False)]
    for head, cell, step in zip(heads, problem.cells, done, strict=False):
        if not re.fullmatch(rf"{re.escape(head)}([0-9]\?)*{cell}", step):
            return False
    if mark:
        return len(done) == len(heads) and final in ("", problem.answer)
    head = heads[len(steps) - 1]
    return head.startswith(last) or re.fullmatch(rf"{re.escape(head)}([0-9]\?)*[0-9]?", last) is not None
