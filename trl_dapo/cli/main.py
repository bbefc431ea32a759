"""
The console script: picks the command. It imports no torch, so that help and version answer at once.
"""

import sys
from collections.abc import Callable
from functools import partial

from trl_dapo import __version__

from .commands import ABLATE_RUN, COMMANDS
from .errors import UsageError, one_line, report
from .help_text import Row, Section, paragraph, section_lines, width_of_terminal


INTERRUPTED = 130

SUMMARIES = {
    **{command.name: command.summary for command in COMMANDS.values()},
    "plan": "say before a run whether it fits on a GPU, how long a step takes, and what to change",
    "verify": "check a run before it is started: reward, data, tokenizer, model and settings",
    "eval": "measure accuracy on held-out questions: avg@k, pass@k, maj@k, with intervals",
    "diagnose": "say from a run's log what is wrong with it, since when, and what to change",
    "rewind": "begin again at a checkpoint with one setting changed, and set the futures side by side",
    "merge": "merge an adapter into its base for serving, and say how much of it the rounding keeps",
    "ablate": "run an ablation: rows, seeds, equal budgets, and a report with intervals",
    "demo": "compare DAPO with GRPO on the built-in task, on a CPU",
}


def main(argv: list[str] | None = None) -> int:
    """Runs `trl-dapo` and returns its exit code: 0, 2 for a mistake that the user can fix, another for a crash."""
    first, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return _run(first, rest)
    except UsageError as error:
        return report(error)
    except ImportError as error:
        return report(_of_another_release(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _of_another_release(error: ImportError) -> UsageError:
    """Returns what to install where TRL, or a library below it, lacks a name; any other error is raised again."""
    from trl_dapo.host.releases import explain_import

    explained = explain_import(error)
    if explained is None:
        raise error
    return UsageError(one_line(explained))


def _run(first: str, rest: list[str]) -> int:
    if first in ("-h", "--help"):
        print(_help(), end="")
        return 0
    if first == "--version":
        print(f"trl-dapo {__version__}")
        return 0
    return _command(first)(rest)


def _help() -> str:
    width = width_of_terminal()
    rows = tuple(Row(name, summary) for name, summary in SUMMARIES.items())
    lines = [
        "usage: trl-dapo COMMAND [options], or trl-dapo --help or --version",
        *section_lines([Section("commands", "commands:", rows)], width),
        "",
        *paragraph("`trl-dapo <command> --help` lists the options of a command.", width),
    ]
    return "\n".join(lines) + "\n"


def _command(name: str) -> Callable[[list[str]], int]:
    if name in COMMANDS:
        from .launch import run

        return partial(run, COMMANDS[name])
    if name == "ablate-run":
        # What `ablate` starts where a run has several processes
        from .launch import run

        return partial(run, ABLATE_RUN)
    if name == "ablate":
        from .ablate import main as ablate

        return ablate
    if name == "verify":
        from .verify import main as verify

        return verify
    if name == "plan":
        from .plan import main as plan

        return plan
    if name == "diagnose":
        from .diagnose import main as diagnose

        return diagnose
    if name == "rewind":
        from .rewind import main as rewind

        return rewind
    if name == "rewind-branch":
        # What `rewind` starts for each future
        from .rewind_run import run_hidden

        return run_hidden
    if name == "merge":
        from .merge import main as merge

        return merge
    if name == "demo":
        from .demo import main as demo

        return demo
    if name == "eval":
        from .eval import main as evaluate

        return evaluate
    raise UsageError(f"{name!r} is not a command: the commands are {', '.join(SUMMARIES)}. See `trl-dapo --help`.")


if __name__ == "__main__":
    sys.exit(main())
