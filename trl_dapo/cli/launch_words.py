"""
The words that belong to `accelerate launch`, of the YAML file and of the command line, as it understands them.
"""

import argparse
from collections.abc import Sequence

from .errors import UsageError, one_line


CONFIG = "--accelerate_config"


def launch_words(
    from_file: Sequence[str], from_command_line: Sequence[str], launcher: argparse.ArgumentParser
) -> list:
    """
    Returns the words in order: where both set an option, the command line's comes last and wins.

    Args:
        from_file (`Sequence[str]`):
            Pairs of option and value.
        from_command_line (`Sequence[str]`):
            As the user wrote them.
        launcher (`argparse.ArgumentParser`):
            The parser of `accelerate launch`.
    """
    # Each part on its own: of several configs the host's function takes the first
    return _resolved(_flags_of_file(from_file, launcher)) + _resolved(list(from_command_line))


def _flags_of_file(pairs: Sequence[str], launcher: argparse.ArgumentParser) -> list[str]:
    """Writes `multi_gpu: true` as the flag `--multi_gpu`, and leaves out what is false."""
    words: list[str] = []
    for option, value in zip(pairs[::2], pairs[1::2], strict=True):
        action = launcher._option_string_actions.get(option)
        if action is None or action.nargs != 0:
            words += [option, value]
        elif value in ("True", "False"):
            words += [option] if value == "True" else []
        else:
            raise UsageError(f"{option.lstrip('-')}: {value!r} in the config file is not true or false.")
    return words


def _resolved(words: list[str]) -> list[str]:
    """Returns the words with the last `--accelerate_config` as the path of its file, and without earlier ones."""
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    split = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{CONFIG}=") else [word])]
    places = [place for place, word in enumerate(split) if word == CONFIG]
    for place in reversed(places[:-1]):
        del split[place : place + 2]
    try:
        return resolve_accelerate_config_argument(split)
    except (ValueError, OSError) as error:
        raise UsageError(f"{CONFIG}: {one_line(error)}") from error
