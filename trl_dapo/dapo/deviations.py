"""
What a config does otherwise than the paper, row by row.

Effective values count, not the raw fields. `PAPER_SAYS` has the paper's values with their sections, and what the
authors' script does where the paper is silent. Rewards, data and model are not in here, since a config has none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..grpo.recipe import GRPO, known_fields
from . import in_effect
from .paper import GENERATIONS, PAPER, PROMPTS, SCRIPT, UPDATES
from .toggles import PAPER_EPSILON_HIGH, PROMPT_SWITCHES


if TYPE_CHECKING:
    from rich.table import Table

    from .config import DAPOConfig


# Terms that TRL can add to the loss, and the paper's does not have
NOT_IN_THE_LOSS = ("off_policy_mask_threshold", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy")
COLUMNS = ("field", "paper", "here", "section", "note")
SILENT = "not said"


@dataclass(frozen=True)
class Deviation:
    """
    A row: what the paper says and what a config does.

    Attributes:
        field (`str`):
            The field to change, or the fields, or a name in plain words.
        paper (`Any`):
            The paper's value, `None` where it is silent.
        here (`Any`):
            The value that is in effect.
        section (`str`):
            Section or equation of the paper, empty where it is silent.
        note (`str`):
            What the authors' script does where it says something else, or what the value depends on.
    """

    field: str
    paper: Any
    here: Any
    section: str
    note: str = ""

    def cells(self) -> tuple[str, str, str, str, str]:
        """Returns the row as text, in the order of `COLUMNS`."""
        paper = SILENT if self.paper is None else str(self.paper)
        return self.field, paper, "none" if self.here is None else str(self.here), self.section, self.note


class Deviations(list[Deviation]):
    """Rows that `print` shows as lines, and rich as a table."""

    def __str__(self) -> str:
        lines = []
        for field, paper, here, section, note in (row.cells() for row in self):
            said = ", ".join(filter(None, (paper, section)))
            lines.append(f"{field}: {here} (paper: {'; '.join(filter(None, (said, note)))})")
        return "\n".join(lines)

    def __rich__(self) -> "Table":
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        for column in COLUMNS:
            table.add_column(column, no_wrap=column in ("field", "section"))
        for row in self:
            table.add_row(*(escape(cell) for cell in row.cells()))
        return table


@dataclass(frozen=True)
class Statement:
    """
    What the paper, or the script where it is silent, says about one field.

    Attributes:
        field (`str`): as in [`Deviation`].
        paper (`Any`): as in [`Deviation`].
        section (`str`): as in [`Deviation`].
        script (`Any`): the script's value, `None` where it is the paper's.
        read (`Callable`, *optional*): returns the value in effect; that of the field by default.
        note (`str`): a note for every config.
        applies (`Callable`): whether the config has the part at all.
    """

    field: str
    paper: Any
    section: str
    script: Any = None
    read: Callable[["DAPOConfig"], Any] | None = None
    note: str = ""
    applies: Callable[["DAPOConfig"], bool] = lambda config: True

    def deviation(self, config: "DAPOConfig") -> Deviation | None:
        """Returns the row of a config, or `None` where it does as said."""
        if not self.applies(config):
            return None
        here = getattr(config, self.field) if self.read is None else self.read(config)
        if here == (self.script if self.paper is None else self.paper):
            return None
        script = "" if self.script is None else f"the script: {self.script}"
        return Deviation(self.field, self.paper, here, self.section, "; ".join(filter(None, (script, self.note))))


def deviations_of(config: "DAPOConfig") -> Deviations:
    """Returns what a config does otherwise than the paper, in the paper's order."""
    rows = (statement.deviation(config) for statement in PAPER_SAYS)
    return Deviations(row for row in rows if row is not None)


def _penalises(config: "DAPOConfig") -> bool:
    return config.soft_overlong_punishment


def _samples_dynamically(config: "DAPOConfig") -> bool:
    return config.dynamic_sampling


# Neither of the paper's two values for overlong filtering is the other, so every config has that row
PAPER_SAYS = (
    Statement("prompts per rollout", PROMPTS, "§4.1", read=in_effect.prompts_per_rollout),
    Statement("num_generations", GENERATIONS, "§4.1"),
    Statement("updates per rollout", UPDATES, "§4.1", read=in_effect.updates_per_rollout),
    Statement("num_iterations", 1, "§4.1"),
    Statement("completions per update", 512, "§4.1", read=in_effect.completions_per_update),
    Statement("learning_rate", 1e-6, "§4.1"),
    Statement("lr_scheduler_type", "constant", "§4.1", read=in_effect.schedule, note="after the warm-up"),
    Statement("warmup_steps", "20 rollouts", "§4.1", script="10 rollouts", read=in_effect.warmup),
    Statement("optim", "AdamW", "§4.1", read=in_effect.optimizer),
    Statement("weight_decay", None, "", script=SCRIPT["weight_decay"]),
    Statement("max_grad_norm", None, "", script=SCRIPT["max_grad_norm"]),
    Statement("disable_dropout", None, "", script=True),
    Statement("beta", 0.0, "§2.3"),
    Statement("loss_type", "dapo", "Eq. 12"),
    Statement(
        "token_level_scope",
        "prompt",
        "Eq. 12",
        script="batch",
        read=in_effect.scope,
        note="the loss averages its tokens",
    ),
    Statement("epsilon", 0.2, "§4.1", read=in_effect.lower_epsilon),
    Statement("epsilon_high", PAPER_EPSILON_HIGH, "§4.1", read=in_effect.upper_epsilon),
    Statement("delta", None, "", script=SCRIPT["delta"], note="dual clip"),
    Statement("importance_sampling_level", "token", "Eq. 9"),
    Statement("scale_rewards", "group", "Eq. 9"),
    *(Statement(name, value, "Eq. 8") for name, value in known_fields(GRPO).items() if name in NOT_IN_THE_LOSS),
    Statement(
        "vllm_importance_sampling_correction",
        "none",
        "Eq. 9",
        read=in_effect.vllm_ratio,
        note="sequence_mask can drop long completions whole",
        applies=lambda config: config.use_vllm,
    ),
    Statement(
        "overlong_filtering",
        "on in Table 1, off in the best run",
        "§3.4",
        read=in_effect.filters,
        note="the latter by the README of the authors' recipe",
    ),
    Statement("soft_overlong_punishment", True, "Eq. 13"),
    Statement("max_completion_length", PAPER["max_completion_length"], "§4.1"),
    Statement("soft_punish_cache", PAPER["soft_punish_cache"], "§4.1", applies=_penalises),
    Statement(
        "overlong_penalty_factor",
        1.0,
        "Eq. 13",
        read=in_effect.penalty_factor,
        note="1.0 goes with rewards of -1 and +1 (Eq. 7)",
        applies=_penalises,
    ),
    Statement("dynamic_sampling", True, "§3.2"),
    Statement(
        "dynamic_sampling_metric",
        "accuracy",
        "Eq. 11",
        read=in_effect.sampling_metric,
        note="the same if one function says right or wrong",
        applies=_samples_dynamically,
    ),
    Statement(
        "max_refill_rounds",
        "until the batch is full",
        "§3.2",
        script="at most 10 batches of 1536 prompts, then an error",
        read=in_effect.refill_rounds,
        applies=_samples_dynamically,
    ),
    *(Statement(name, "off", "§3.2", read=in_effect.switch(name)) for name in PROMPT_SWITCHES),
    Statement("surplus", None, "", script="discard", applies=_samples_dynamically),
    Statement("temperature", None, "", script=1.0, read=in_effect.sampled("temperature")),
    Statement("top_p", None, "", script=1.0, read=in_effect.sampled("top_p")),
    Statement("top_k", None, "", script=0, read=in_effect.sampled("top_k")),
    Statement("min_p", None, "", read=in_effect.sampled("min_p")),
    Statement("repetition_penalty", None, "", script=1.0, read=in_effect.sampled("repetition_penalty")),
    Statement("prompt length", None, "", script="2048 tokens, cut on the left", read=lambda config: "no limit"),
    Statement(
        "num_generations_eval",
        "32 at temperature 1.0, top_p 0.7",
        "§4.1",
        read=in_effect.evaluation,
        applies=in_effect.evaluates,
    ),
)
