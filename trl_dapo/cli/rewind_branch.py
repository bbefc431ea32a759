"""
The training script of one branch of a rewind: the run's own, from a checkpoint on, with what changes.

`trl-dapo rewind` starts it as the run was started. Its words are `--config FOLDER/run.yaml`, and what the branch is
stands beside that file.
"""

import sys
from pathlib import Path

from trl_dapo.host.checkpoints import damage, numbered
from trl_dapo.rewind.branch import RUN_FOLDER, Branch, read_branch
from trl_dapo.rewind.fields import optimizer_fields
from trl_dapo.rewind.optimizer import OptimizerChanges
from trl_dapo.rewind.recording import BranchEnd

from .commands import COMMANDS, Command
from .errors import UsageError, one_line, report
from .monitor_arguments import add_monitors
from .script import build_trainer, parse_words
from .unfinished import none_left


def main(argv: list[str]) -> int:
    """Trains the branch. Returns 0, or 2 after one line on stderr for what the user can fix; a crash is raised."""
    try:
        folder = Path(argv[argv.index("--config") + 1]).parent
        branch = read_branch(folder)
        _train(COMMANDS[branch.command], branch, folder, argv)
    except (UsageError, ValueError) as error:
        return report(error if isinstance(error, UsageError) else UsageError(one_line(error)))
    return 0


def _train(command: Command, branch: Branch, folder: Path, argv: list[str]) -> None:
    arguments = parse_words(command, argv)
    trainer = build_trainer(command, arguments)
    # The run had the diagnosis too, which adds keys to the log
    add_monitors(trainer, arguments.script_args)
    trainer.add_callback(OptimizerChanges(trainer, optimizer_fields(branch.moved)))
    trainer.add_callback(BranchEnd(branch, folder))
    with none_left(folder / RUN_FOLDER, "checkpoints"):
        trainer.train(resume_from_checkpoint=str(_checkpoint(branch, folder, trainer.has_state_file)))
    trainer.accelerator.end_training()


def _checkpoint(branch: Branch, folder: Path, online: bool) -> Path:
    """Returns where to go on: the branch's own newest whole checkpoint, or the run's."""
    own = (path for path in numbered(folder / RUN_FOLDER) if damage(path, online) is None)
    return next((path for path in own if int(path.name.rsplit("-", 1)[-1]) < branch.end), Path(branch.checkpoint))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
