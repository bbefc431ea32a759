"""
Defaults and limits of the options of `trl-dapo ablate`.
"""

from pathlib import Path


OUTPUT_DIR = Path("runs/ablation")
SEEDS, MARGIN, MAX_SEEDS = 8, 0.02, 32
MOST_SEED = 2**32
# Beyond these, a plan takes all memory or a number no longer fits where it goes
LARGEST = {
    "samples": 10**12,
    "steps": 10**12,
    "seconds": 10**9,
    "seeds": 1000,
    "max_seeds": 1000,
    "jobs": 10**4,
    "points": 1000,
    "points_k": 10**4,
}
