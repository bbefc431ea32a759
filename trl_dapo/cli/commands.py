"""
The table of training commands: what `trl-dapo <command>` parses, checks and trains.

Classes and functions stand here by name and are imported when they are used, so that reading the table needs no torch.
"""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from .errors import UsageError


@dataclass(frozen=True)
class Command:
    """
    A training command. All fields but the first two name an object, as `"module:object"`.

    Args:
        name (`str`):
            What the user types, and the module in `trl_dapo.cli` that is launched.
        summary (`str`):
            Its line in `trl-dapo --help`.
        trainer (`str`):
            Class that trains.
        config (`str`):
            Its config.
        host_config (`str`):
            The config of TRL's that it extends; a dry run prints what differs from it.
        parser (`str`):
            Class of the parser, a [`CommandParser`].
        script_arguments (`str`):
            Dataclass of the arguments that belong to no config.
        arena_defaults (`str`):
            Fields of a run on the built-in task.
        preflight (`str`):
            Checks a run before processes start: `(arguments) -> None`.
        checkpoint (`str`):
            Finds the checkpoint to resume from: `(training_args) -> str | bool | None`.
        trainer_arguments (`str`):
            Makes the keyword arguments of the trainer: `(arguments) -> dict`.
        complete (`str`, *optional*):
            What is done to the trainer before it trains: `(trainer, arguments) -> None`.
        print_dry_run (`str`):
            Prints the resolved run: `(arguments, host_config) -> None`.
    """

    name: str
    summary: str
    trainer: str
    config: str
    host_config: str
    parser: str
    script_arguments: str
    arena_defaults: str
    preflight: str
    checkpoint: str
    trainer_arguments: str
    complete: str | None = None
    print_dry_run: str = "trl_dapo.cli.dry_run:print_config"

    @property
    def module(self) -> str:
        """The module that is launched."""
        return f"{__package__}.{self.name}"

    def load(self, field: str) -> Any:
        """Returns the object that a field names."""
        return resolve_name(getattr(self, field))


ONLINE = {
    "host_config": "trl:GRPOConfig",
    "script_arguments": "trl_dapo.cli.online:OnlineScriptArguments",
    "preflight": "trl_dapo.cli.preflight:check_online",
    "checkpoint": "trl_dapo.cli.preflight:whole_checkpoint",
    "trainer_arguments": "trl_dapo.cli.online:online_arguments",
    "complete": "trl_dapo.cli.held_out:measure_held_out",
}
OFFLINE = {
    "parser": "trl_dapo.cli.arguments:CommandParser",
    "script_arguments": "trl_dapo.cli.offline:OfflineScriptArguments",
    "preflight": "trl_dapo.cli.preflight:check_offline",
    # DPO and reward training resume as TRL does
    "checkpoint": "trl_dapo.cli.preflight:asked_checkpoint",
}

_TABLE = (
    Command(
        name="dapo",
        summary="train with DAPO: flags and YAML of `trl grpo`; without a model and a dataset, the built-in task",
        trainer="trl_dapo.dapo.trainer:DAPOTrainer",
        config="trl_dapo.dapo.config:DAPOConfig",
        parser="trl_dapo.cli.online:DAPOParser",
        arena_defaults="trl_dapo.cli.arena_defaults:DAPO",
        print_dry_run="trl_dapo.cli.dry_run:print_dapo_config",
        **ONLINE,
    ),
    Command(
        name="grpo",
        summary="train with GRPO: flags and YAML of `trl grpo`, or the built-in task",
        trainer="trl_dapo.grpo.trainer:GRPOTrainer",
        config="trl_dapo.grpo.config:GRPOConfig",
        parser="trl_dapo.cli.online:OnlineParser",
        arena_defaults="trl_dapo.cli.arena_defaults:GRPO",
        **ONLINE,
    ),
    Command(
        name="ppo",
        summary="train with PPO: flags and YAML of `trl grpo` and those of a critic, or the built-in task",
        trainer="trl_dapo.ppo.trainer:PPOTrainer",
        config="trl_dapo.ppo.config:PPOConfig",
        parser="trl_dapo.cli.online:OnlineParser",
        arena_defaults="trl_dapo.cli.arena_defaults:PPO",
        **ONLINE,
    ),
    Command(
        name="reward",
        summary="train a reward model: flags and YAML of `trl reward`, or the built-in task's preferences",
        trainer="trl_dapo.reward_model.trainer:RewardTrainer",
        config="trl_dapo.reward_model.config:RewardConfig",
        host_config="trl:RewardConfig",
        arena_defaults="trl_dapo.cli.arena_defaults:REWARD",
        trainer_arguments="trl_dapo.cli.offline:reward_arguments",
        **OFFLINE,
    ),
    Command(
        name="dpo",
        summary="train with DPO: flags and YAML of `trl dpo`, or the built-in task's preferences",
        trainer="trl_dapo.dpo.trainer:DPOTrainer",
        config="trl_dapo.dpo.config:DPOConfig",
        host_config="trl:DPOConfig",
        arena_defaults="trl_dapo.cli.arena_defaults:DPO",
        trainer_arguments="trl_dapo.cli.offline:dpo_arguments",
        **OFFLINE,
    ),
)

COMMANDS = {command.name: command for command in _TABLE}

# One run of `trl-dapo ablate`, which starts it; not among the commands that a user types
ABLATE_RUN = Command(
    name="ablate_run",
    summary="one run of an ablation",
    trainer="trl_dapo.dapo.trainer:DAPOTrainer",
    config="trl_dapo.dapo.config:DAPOConfig",
    parser="trl_dapo.cli.online:DAPOParser",
    arena_defaults="trl_dapo.cli.arena_defaults:ABLATION",
    print_dry_run="trl_dapo.cli.dry_run:print_dapo_config",
    **{
        **ONLINE,
        "script_arguments": "trl_dapo.cli.ablate_run:RunScriptArguments",
        "trainer_arguments": "trl_dapo.cli.ablate_run:run_arguments",
        "complete": "trl_dapo.cli.ablate_run:measure_run",
    },
)


def command_of(argv: list[str], default: str = "dapo") -> tuple[str, list[str]]:
    """
    Returns the training command that words begin with, and the other words; the default where they begin with options.

    Raises:
        [`UsageError`]: If the first word is neither.
    """
    if not argv or argv[0].startswith("-"):
        return default, argv
    if argv[0] not in COMMANDS:
        raise UsageError(
            f"{argv[0]!r} is not a command that trains: name one of {', '.join(COMMANDS)}, or none for {default}."
        )
    return argv[0], argv[1:]
