"""
The main job on the arena: naive GRPO and DAPO from one warm start, on the same number of generated completions.

In here: one run (`arm`), what it shows while it trains (`display`), and what is left of it (`report`).
"""

from .run import Arm, ArmResult, Point, run_arm


__all__ = ["Arm", "ArmResult", "Point", "run_arm"]
