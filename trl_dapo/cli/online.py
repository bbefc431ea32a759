"""
What only the commands that generate need, `dapo`, `grpo` and `ppo`: script arguments, parsers, trainer arguments.
"""

from dataclasses import dataclass, field
from typing import Any

from . import built_in_task
from .arguments import Arguments, CommandParser
from .check_batch import check_batch
from .data import column_names, load_data, say
from .monitor_arguments import MonitoredScriptArguments
from .precedence import yield_to_given
from .reward_names import KNOWN, check_columns, reward_functions, scoring_arguments
from .source import named_source, trainer_arguments


@dataclass
class OnlineScriptArguments(MonitoredScriptArguments):
    """
    What the script needs besides the configs of model and training.

    Args:
        reward_model_name_or_path (`str`, *optional*):
            Reward model that scores the completions: its id on the Hub, or a folder.
        reward_funcs (`list[str]`, *optional*):
            Reward functions: `"accuracy_reward"`, `"reasoning_accuracy_reward"`, `"think_format_reward"`,
            `"get_soft_overlong_punishment"` (its widths are `max_completion_length` and `soft_punish_cache`),
            `"arena_accuracy"`, scorers (`"dapo_math"`, `"math_verify"`, `"number"`, ...), or dotted import paths.
        answer_column (`str`, *optional*):
            Column of the right answers, by its dotted name (`reward_model.ground_truth`); it becomes `solution`.
        prompt_column (`str`, *optional*):
            Column of the questions; it becomes `prompt`.
        prompt_template (`str`, *optional*):
            Text of each prompt, with `{question}` in it, and with `{answer_format}` where the scorer's shall be.
        unparseable_reward (`float`, *optional*):
            What a scorer gives where it finds no answer: by default what a wrong answer gets, with NaN no reward.
        scorer_time_limit (`float`, *optional*, defaults to `5.0`):
            Most seconds in which a scorer judges one answer.
        held_out (`list[str]`, *optional*):
            Data sets on which accuracy is measured during training: names (`aime-2024`, `gsm8k`, ..., or `arena`),
            files or folders.
        held_out_scorer (`str`, *optional*):
            Who judges the answers. By default the first scorer of `reward_funcs`, or `dapo_math`.
        held_out_k (`int`, *optional*, defaults to `8`):
            Completions per question.
        held_out_size (`int`, *optional*):
            Most questions of each data set.
        held_out_every (`str`, *optional*):
            A number of steps, `"epoch"`, or `"eval"`: with each evaluation of the trainer, which is the default where
            there are any. The start and the last step are measured as well.
        dry_run (`bool`, *optional*, defaults to `False`):
            Print the resolved config and the batch arithmetic, and stop.

    Attributes:
        notes (`list[str]`): one line for each default that gave way to a field that the user set.
    """

    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Reward model that scores the completions: its id on the Hub, or a folder."}
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": f"Reward functions: {', '.join(KNOWN)}, or dotted import paths."}
    )
    answer_column: str | None = field(
        default=None,
        metadata={"help": "Column of the right answers, by its dotted name: it becomes the column `solution`."},
    )
    prompt_column: str | None = field(
        default=None, metadata={"help": "Column of the questions, by its dotted name: it becomes the column `prompt`."}
    )
    prompt_template: str | None = field(
        default=None,
        metadata={"help": "Text of each prompt, with {question} in it, and {answer_format} for the scorer's format."},
    )
    unparseable_reward: float | None = field(
        default=None,
        metadata={"help": "What scorers give where they find no answer: that of a wrong one; nan for no reward."},
    )
    scorer_time_limit: float = field(
        default=5.0, metadata={"help": "Most seconds in which a scorer judges one answer."}
    )
    held_out: list[str] | None = field(
        default=None,
        metadata={"help": "Data sets on which accuracy is measured during training, such as aime-2024 or a file."},
    )
    held_out_scorer: str | None = field(
        default=None, metadata={"help": "Who judges the answers: that of reward_funcs by default, else dapo_math."}
    )
    held_out_k: int = field(default=8, metadata={"help": "Completions per held-out question."})
    held_out_size: int | None = field(default=None, metadata={"help": "Most questions of each held-out data set."})
    held_out_every: str | None = field(
        default=None, metadata={"help": "When: a number of steps, 'epoch', or 'eval', with the trainer's evaluations."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the resolved config and the batch arithmetic, and stop."}
    )
    notes: list[str] = field(default_factory=list, init=False)


class OnlineParser(CommandParser):
    """The parser of `trl-dapo grpo` and `trl-dapo ppo`."""

    def _fill_in(self, values: dict[str, Any], given: set[str]) -> None:
        if isinstance(values["reward_funcs"], str):
            # A YAML file may give a single name instead of a list
            values["reward_funcs"] = [values["reward_funcs"]]
        super()._fill_in(values, given)
        check_batch(values, self.processes)


class DAPOParser(OnlineParser):
    """The parser of `trl-dapo dapo`: toggles yield to the fields of TRL that the user set."""

    def _fill_in(self, values: dict[str, Any], given: set[str]) -> None:
        super()._fill_in(values, given)
        self.notes += yield_to_given(values, given)


def online_arguments(arguments: Arguments) -> dict[str, Any]:
    """Returns the keyword arguments of an online trainer, for the built-in task or for what the arguments name."""
    script_args, training_args, model_args, dataset_args = arguments
    scoring = scoring_arguments(script_args)
    rewards: list = reward_functions(script_args.reward_funcs or [], training_args, **scoring)
    if model_args.model_name_or_path is None:
        built_in_task.check_no_reference(training_args, model_args)
        built_in_task.check_not_quantized(model_args)
        source = built_in_task.problems(training_args)
    else:
        data = load_data(script_args, training_args, dataset_args)
        say(data.notes)
        source = named_source(arguments, data, trust_remote_code=training_args.trust_remote_code)
    check_columns(rewards, column_names(source.train))
    if script_args.reward_model_name_or_path:
        rewards.insert(0, script_args.reward_model_name_or_path)
    return {**trainer_arguments(arguments, source), "reward_funcs": rewards}
