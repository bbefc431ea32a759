"""
The console script: picks the command. No torch in here, so that help and version answer at once.
"""

import sys
from collections.abc import Callable
from functools import partial

from trl_dapo import __version__

from .errors import UsageError, report


INTERRUPTED = 130
TRAINING = ("dapo", "grpo", "ppo", "reward", "dpo")

HELP = """\
usage: trl-dapo [--help] [--version] {dapo,grpo,ppo,reward,dpo,demo} ...

commands:
  dapo    train with DAPO: flags and YAML of `trl grpo`, and a built-in task where no model and dataset are named
  grpo    train with GRPO: flags and YAML of `trl grpo`, and the built-in task
  ppo     train with PPO: flags and YAML of `trl grpo`, a critic's beside them, and the built-in task
  reward  train a reward model: flags and YAML of `trl reward`, and the built-in task's preferences
  dpo     train with DPO: flags and YAML of `trl dpo`, and the built-in task's preferences
  demo    see DAPO at work on the built-in task, on a CPU

`trl-dapo <command> --help` lists the options of a command.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs `trl-dapo` and returns its exit code: 0, 2 for what the user can mend, another one for a crash."""
    first, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return _run(first, rest)
    except UsageError as error:
        return report(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(first: str, rest: list[str]) -> int:
    if first in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if first == "--version":
        print(f"trl-dapo {__version__}")
        return 0
    return _command(first)(rest)


def _command(name: str) -> Callable[[list[str]], int]:
    if name in TRAINING:
        from .launch import run

        return partial(run, name)
    if name == "demo":
        from .demo import main as demo

        return demo
    raise UsageError(
        f"{name!r} is not a command: the commands are {', '.join(TRAINING)} and demo. See `trl-dapo --help`."
    )


if __name__ == "__main__":
    sys.exit(main())
