"""
Where a branch ends, and what it leaves behind.
"""

from pathlib import Path

from transformers import TrainerCallback

from .branch import Branch, Future, write_future


class BranchEnd(TrainerCallback):
    """
    Stops a run at the end of its branch, and writes its future once training is over.

    The run's own number of steps stays as it was, since schedules and shares of steps are computed from it.

    Args:
        branch ([`Branch`]):
            The branch.
        folder (`Path`):
            Its folder.
    """

    def __init__(self, branch: Branch, folder: Path) -> None:
        self._branch, self._folder = branch, folder

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self._branch.end:
            control.should_training_stop = True
            control.should_save = control.should_save or self._branch.saves_end

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            log = [entry for entry in state.log_history if entry["step"] > self._branch.base]
            write_future(self._folder, Future(self._branch.base, state.global_step, log))
