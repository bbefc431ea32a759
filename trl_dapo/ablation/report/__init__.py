"""
The report of an ablation: tables, figures, numbers and one page, from runs.

In here: `write_report`, and `compare.compare` for two reports. Names of rows, questions and completions may be
anyone's: see `escaping`.
"""

from .write import write_report


__all__ = ["write_report"]
