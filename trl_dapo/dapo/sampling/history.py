"""
What each prompt has taught so far, and which prompts are therefore not worth generating.

Counts in, decisions out. Three switches share the same records: GRESO skips prompts whose last groups were degenerate,
with some probability; no positive resampling drops solved prompts; Thompson sampling prefers prompts of medium
difficulty. A decision depends only on the seed, on where in the stream the prompt was read, and on the records. It is
therefore the same on every rank and after a resume.
"""

import random
from dataclasses import astuple, dataclass
from typing import Any


# GRESO (https://huggingface.co/papers/2506.02177): `p` is the probability that a prompt is generated after one
# degenerate group. It begins at START and moves by STEP per rollout, between LOWEST and HIGHEST, until the share of
# degenerate groups meets its target: a quarter of all groups, a third of these easy
START, STEP, LOWEST, HIGHEST = 0.5, 0.01, 0.05, 0.95
TARGETS = {"easy": 0.25 / 3, "hard": 0.25 * 2 / 3}

# A prompt is generated with at least this probability, however long it has been degenerate: the policy may have moved
EXPLORATION_FLOOR = 0.05

# Weight of earlier visits when a new one is recorded: the policy has moved in between
EVIDENCE_DECAY = 0.5

# Thompson sampling chooses from this many times as many prompts as a round needs
POOL = 4


@dataclass
class Record:
    """
    What is known about a prompt. A visit is one generated group.

    Attributes:
        run (`int`):
            Visits since the last informative one, all degenerate of the same `kind`.
        kind (`str`):
            `"easy"` or `"hard"` where the last visit was degenerate, else `""`.
        pass_rate (`float`):
            Share of right completions at the last visit.
        right, wrong (`float`):
            Right and wrong completions of all visits, earlier ones discounted.
    """

    run: int = 0
    kind: str = ""
    pass_rate: float = 0.0
    right: float = 0.0
    wrong: float = 0.0


class PromptHistory:
    """
    One record per prompt, and the decisions that follow from the records.

    Args:
        seed (`int`):
            Seed of every draw.
        skip_degenerate (`bool`):
            Skip prompts as in GRESO: a prompt whose last `z` visits were degenerate is generated with probability
            `p**z`, at least `EXPLORATION_FLOOR`. Easy prompts (all right) and hard ones each have their own `p`.
        skip_solved_above (`float`, *optional*):
            Never again generate a prompt if at least this share of its completions was right at its last visit (no
            positive resampling, https://huggingface.co/papers/2510.13786).
        thompson (`bool`):
            Prefer prompts whose pass rate, drawn from its Beta posterior, is close to 1/2
            (https://huggingface.co/papers/2507.04632).
    """

    def __init__(
        self,
        seed: int,
        skip_degenerate: bool = False,
        skip_solved_above: float | None = None,
        thompson: bool = False,
    ) -> None:
        self._seed = seed
        self._skip_degenerate = skip_degenerate
        self._skip_solved_above = skip_solved_above
        self.pool = POOL if thompson else 1
        self._records: dict[Any, Record] = {}
        self._explore = dict.fromkeys(TARGETS, START)
        self._kinds = dict.fromkeys(TARGETS, 0)
        self._generated = 0

    @property
    def in_use(self) -> bool:
        """Whether any switch is on. If none is, nothing is recorded."""
        return self._skip_degenerate or self._skip_solved_above is not None or self.pool > 1

    def record(self, identity: Any, right: int, wrong: int, informative: bool) -> None:
        """
        Adds a visit.

        Args:
            identity (`Any`):
                Identity of the prompt, as in [`~prompts.StreamedPrompt`].
            right, wrong (`int`):
                Scored completions of its group with a raw metric above 0, and the other scored ones. Both are 0 if no
                completion could be scored; such a prompt counts as hard.
            informative (`bool`):
                Whether its group was informative.
        """
        if not self.in_use:
            return
        record = self._records.setdefault(identity, Record())
        kind = "" if informative else "easy" if right and not wrong else "hard"
        record.run = 0 if informative else record.run + 1 if kind == record.kind else 1
        record.kind = kind
        if right + wrong:
            record.pass_rate = right / (right + wrong)
        record.right = EVIDENCE_DECAY * record.right + right
        record.wrong = EVIDENCE_DECAY * record.wrong + wrong
        self._generated += 1
        if kind:
            self._kinds[kind] += 1

    def end_rollout(self) -> None:
        """Lowers a kind's `p` if at least its target share of this rollout's groups was degenerate, else raises it."""
        if self._generated:
            for kind, target in TARGETS.items():
                step = -STEP if self._kinds[kind] / self._generated >= target else STEP
                self._explore[kind] = min(max(self._explore[kind] + step, LOWEST), HIGHEST)
        self._kinds = dict.fromkeys(TARGETS, 0)
        self._generated = 0

    def skips(self, identity: Any, epoch: int, ordinal: int) -> bool:
        """Returns whether to pass over a prompt that the stream read at this position."""
        record = self._records.get(identity)
        if record is None:
            return False
        if self._skip_solved_above is not None and record.pass_rate >= self._skip_solved_above:
            return True
        if not self._skip_degenerate or not record.kind:
            return False
        chance = max(self._explore[record.kind] ** record.run, EXPLORATION_FLOOR)
        return self._draw("skip", epoch, ordinal).random() >= chance

    def distance(self, identity: Any, epoch: int, ordinal: int) -> float:
        """Returns the distance from 1/2 of a pass rate drawn from the prompt's posterior, between 0 and 1/2."""
        record = self._records.get(identity) or Record()
        draw = self._draw("thompson", epoch, ordinal).betavariate(record.right + 1, record.wrong + 1)
        return abs(draw - 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Returns the records between two rollouts as plain JSON values."""
        records = [[identity, *astuple(record)] for identity, record in self._records.items()]
        return {"records": records, "explore": dict(self._explore)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._records = {identity: Record(*values) for identity, *values in state["records"]}
        self._explore = dict(state["explore"])

    def _draw(self, purpose: str, epoch: int, ordinal: int) -> random.Random:
        return random.Random(f"{self._seed}/{purpose}/{epoch}/{ordinal}")
