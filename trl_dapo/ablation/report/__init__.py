"""
The report of an ablation: tables, figures, numbers and one page, from runs.

Names of rows, questions and completions may be anyone's: see `escaping`.
"""

from .compare import compare
from .write import write_report


__all__ = ["compare", "write_report"]
