"""
Problems with verifiable answers: data sets by name, files, and prompts that ask for the answer in a scorer's format.
"""

from .catalogue import PROBLEM_SETS
from .load import load_problems


__all__ = ["PROBLEM_SETS", "load_problems"]
