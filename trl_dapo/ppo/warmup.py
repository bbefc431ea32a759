"""
A critic's warm-up that leaves the policy no step, told in one line.
"""

from accelerate.logging import get_logger
from transformers import TrainerCallback


logger = get_logger(__name__)


def long_warmup(warmup: int, steps: int) -> list[str]:
    """Returns a line where all of a run's optimizer steps, if they are known, are the critic's warm-up; else none."""
    if not 0 < steps <= warmup:
        return []
    return [
        f"critic_warmup_steps={warmup} is not below the {steps} optimizer steps of the run: the policy never learns. "
        "Lower it, or raise `max_steps` or `num_train_epochs`."
    ]


class WarmupTold(TrainerCallback):
    """Warns at the start of a run whose steps follow from its epochs."""

    def on_train_begin(self, args, state, control, **kwargs):
        if args.max_steps <= 0:
            for line in long_warmup(args.critic_warmup_steps, state.max_steps):
                logger.warning(line)
