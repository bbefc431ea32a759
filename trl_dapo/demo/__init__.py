"""
The demo: GRPO without KL and DAPO on the arena, from the same warm start, on the same number of generated completions.

In here: one training run (`run`), what it shows while it trains (`display`), and its table, plot and numbers
(`report`). Not in here: the options of `trl-dapo demo`.
"""

from .run import Method, Point, RunResult, run_method


__all__ = ["Method", "Point", "RunResult", "run_method"]
