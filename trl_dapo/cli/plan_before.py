"""
The plan of memory as a training command uses it: in short in a dry run, and against the card before a model is loaded.
"""

import sys
from typing import Any

import torch
from accelerate.logging import get_logger

from trl_dapo.host.randomness import random_state_kept
from trl_dapo.planning.advice import first_change
from trl_dapo.planning.log_prob_head import NoTracedHead
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.memory_plan import MemoryPlan

from .arguments import Arguments
from .errors import UsageError, one_line
from .plan_display import gib, short_lines
from .plan_model import NoConfigFile
from .plan_result import fitting_sizes, plans_on
from .plan_shape import planned_run


logger = get_logger(__name__)

# Plans that a warning may ask for: a run waits for it
FEW_PLANS = 12


def print_memory(name: str, arguments: Arguments, processes: int) -> None:
    """Prints a line for each phase of a run, what it needs, and the cards that it fits on; or why not."""
    lines = _memory_lines(name, arguments, processes)
    if sys.stdout.isatty():
        from rich.console import Console

        for line in lines:
            Console().print(line, markup=False, highlight=False)
    else:
        print("# memory")
        print("\n".join(lines))


def _memory_lines(name: str, arguments: Arguments, processes: int) -> list[str]:
    if arguments.model_args.model_name_or_path is None:
        # A trace takes a second, and tells nothing of 0.1 million weights
        return ["the built-in model fits on every card"]
    try:
        plan = plan_memory(planned_run(name, arguments, processes=processes).shape)
    except (NoConfigFile, NoTracedHead) as error:
        return [f"memory was not planned: {one_line(error)}"]
    return short_lines(plan, fitting_sizes(plan))


def check_memory(name: str, arguments: Arguments) -> None:
    """
    Warns, before a model is loaded, if the card has less free than the run is planned to need.

    Raises:
        [`UsageError`]: If not even what is loaded before the first step fits.
    """
    args: Any = arguments.training_args
    if args.use_cpu or not torch.cuda.is_available() or args.process_index != 0:
        return
    try:
        with random_state_kept():
            shape = planned_run(name, arguments, processes=args.world_size).shape
            free, total = torch.cuda.mem_get_info()
            # This process has its context already
            plans = plans_on(total, FEW_PLANS, context=0)
            plan = plans.of(shape)
            change = first_change(shape, plans, free) if plan.bytes > free else None
    except Exception as error:
        # A run is not worth less because it could not be planned
        logger.debug(f"memory was not planned: {one_line(error)}")
        return
    weights = _loaded(plan)
    if weights > free and not (args.deepspeed or args.fsdp):
        raise UsageError(
            f"the card has {gib(free)} free, and the weights alone need {gib(weights)}. Load the model with "
            "load_in_4bit, take a smaller one, or free the card (`nvidia-smi` shows who holds it)."
        )
    if plan.bytes > free:
        fix = f"To change first: {change}" if change else "Take a smaller model"
        logger.warning(
            f"The card has {gib(free)} free, and the run is planned to need {gib(plan.bytes)}, most in the phase "
            f"{plan.peak.name!r}. {fix}. `trl-dapo plan` says more."
        )


def _loaded(plan: MemoryPlan) -> int:
    """Returns the bytes of the phase before the first step."""
    return plan.phases[0].bytes
