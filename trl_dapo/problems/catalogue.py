"""
The data sets that have a name: where their rows are, and which columns hold question and answer.

A schema is that of the copy that is named, since other copies of the same problems have other columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches


GYM = "reasoning-gym:"
# TinyZero's parts of Countdown, which has one split on the Hub
COUNTDOWN_TRAIN, COUNTDOWN_TEST = 327_680, 1_024


@dataclass(frozen=True)
class Part:
    """The rows of a split: all of a split of the Hub's, or those from `start` up to `stop`."""

    split: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class ProblemSet:
    """
    A data set with a name.

    Args:
        hub (`str`):
            Its id on the Hub.
        splits (`Mapping[str, Part]`):
            Its splits. One that is only ever evaluated on is called `test`, whatever the Hub calls it.
        prompt (`str`):
            Column of the question, as text or as messages.
        answer (`str`, *optional*):
            Column of the answer, by its dotted name. `None` where a question has many right answers: then the rows are
            scored by their `entry`.
        config (`str`, *optional*):
            Name of the config on the Hub.
        id (`str`, *optional*):
            Column that tells the questions apart, by its dotted name.
        copies (`str`, *optional*):
            Column that is the same in all copies of a question, where there are copies, by its dotted name.
    """

    hub: str
    splits: Mapping[str, Part] = field(hash=False)
    prompt: str
    answer: str | None
    config: str | None = None
    id: str | None = None
    copies: str | None = None

    @property
    def place(self) -> str:
        """Its id on the Hub, with its config."""
        return self.hub if self.config is None else f"{self.hub} ({self.config})"


CATALOGUE: Mapping[str, ProblemSet] = {
    # `prompt` is a list of messages with the instruction in it; each problem is there about 100 times
    "dapo-math-17k": ProblemSet(
        hub="BytedTsinghua-SIA/DAPO-Math-17k",
        splits={"train": Part("train")},
        prompt="prompt",
        answer="reward_model.ground_truth",
        id="extra_info.index",
        copies="extra_info.index",
    ),
    # `answer` is the whole solution, with the answer behind `####`
    "gsm8k": ProblemSet(
        hub="openai/gsm8k",
        config="main",
        splits={"train": Part("train"), "test": Part("test")},
        prompt="question",
        answer="answer",
    ),
    # `solution` is worked out
    "math-500": ProblemSet(
        hub="HuggingFaceH4/MATH-500",
        splits={"test": Part("test")},
        prompt="problem",
        answer="answer",
        id="unique_id",
    ),
    # Both contests of the year. `solution` is worked out; Maxwell-Jia/AIME_2024 has `Problem` and `Answer`
    "aime-2024": ProblemSet(
        hub="HuggingFaceH4/aime_2024",
        splits={"test": Part("train")},
        prompt="problem",
        answer="answer",
        id="id",
    ),
    # Both contests in one file; opencompass/AIME2025 has a config for each, and `question`
    "aime-2025": ProblemSet(
        hub="math-ai/aime25",
        splits={"test": Part("test")},
        prompt="problem",
        answer="answer",
        id="id",
    ),
    # `nums` and `target`; the question is made of them, and any expression with that value is right
    "countdown": ProblemSet(
        hub="Jiayi-Pan/Countdown-Tasks-3to4",
        splits={
            "train": Part("train", 0, COUNTDOWN_TRAIN),
            "test": Part("train", COUNTDOWN_TRAIN, COUNTDOWN_TRAIN + COUNTDOWN_TEST),
        },
        prompt="question",
        answer=None,
    ),
}

PROBLEM_SETS = (*CATALOGUE, f"{GYM}<task>")


def is_problem_set(name: str) -> bool:
    """Returns whether a name is one of the catalogue's, or asks for a task of reasoning-gym."""
    return name in CATALOGUE or name.startswith(GYM)


def nearest_name(name: str) -> str | None:
    """Returns the name of the catalogue that a text misspells, or `None`; a Hub id with an owner misspells none."""
    if "/" in name or name in CATALOGUE:
        return None
    asked = name.lower().replace("_", "-").replace(" ", "-")
    if asked.startswith(("reasoning-gym", "reasoninggym")):
        return f"{GYM}<task>"
    plain = {known.replace("-", ""): known for known in CATALOGUE}
    found = get_close_matches(asked.replace("-", ""), plain, n=1, cutoff=0.75)
    return plain[found[0]] if found else None
