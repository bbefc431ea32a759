"""
Checks the shares of a mixture of datasets, which TRL turns into numbers of rows without a look.
"""

import math
from typing import Any

from .errors import UsageError


def check_mixture(dataset_args: Any) -> None:
    """
    Raises [`UsageError`] for a share of a dataset, or of the test split, that cannot be meant.

    Args:
        dataset_args ([`~trl.DatasetMixtureConfig`]):
            As parsed.
    """
    for place, one in enumerate(dataset_args.datasets or []):
        share = one.get("fraction") if isinstance(one, dict) else getattr(one, "fraction", None)
        if share is not None and not (_is_number(share) and share > 0):
            raise UsageError(
                f"datasets[{place}].fraction={share}: a share of the mixture is a number above 0. Leave the dataset "
                "out if none of it is wanted."
            )
    size = dataset_args.test_split_size
    if size is not None and not (_is_number(size) and size > 0 and (size < 1 or float(size).is_integer())):
        raise UsageError(
            f"test_split_size={size}: it must be a share of the rows, in (0, 1), or a whole number of rows. Leave it "
            "out for no test split."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
