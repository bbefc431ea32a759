"""
Options that are mappings, written as JSON.
"""

import argparse
import json
from typing import Any

from .errors import one_line


def mapping_of(text: str) -> dict[str, Any]:
    """Returns the mapping that an option's word is; what it is not is told by argparse."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a mapping. Write it as JSON, {{"name": value}}')
    return value
