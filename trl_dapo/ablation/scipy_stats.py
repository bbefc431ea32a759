"""
SciPy's statistics, or one line that says how to get them: SciPy is an extra of this package.
"""

try:
    from scipy import stats
except ImportError as error:
    raise ImportError(
        "The statistics of an ablation need SciPy, which is not installed: pip install 'trl-dapo[report]'."
    ) from error


__all__ = ["stats"]
