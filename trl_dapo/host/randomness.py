"""
Random numbers that are drawn aside from a run's own.
"""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept() -> Generator[None]:
    """Gives Python, NumPy and torch, on every device, the random state of before, whatever is drawn meanwhile."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
