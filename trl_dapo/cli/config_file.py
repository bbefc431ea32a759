"""
Reads the file that `--config` names, before anything slow is imported.
"""

import os
from pathlib import Path
from typing import Any

from .errors import UsageError, one_line


def split_config_flag(argv: list[str]) -> list[str]:
    """
    Returns the arguments with `--config=FILE` split in two, the only form that TRL's parser knows.

    Raises:
        [`UsageError`]: If there are several.
    """
    words: list[str] = []
    for word in argv:
        words += word.split("=", 1) if word.startswith("--config=") else [word]
    if words.count("--config") > 1:
        raise UsageError("--config is given more than once. Give one file; flags override its lines.")
    return words


def read_config_file(argv: list[str]) -> dict[str, Any]:
    """
    Returns the fields of the file, or `{}` without `--config`.

    Raises:
        [`UsageError`]: If the file cannot be read, or is not a YAML mapping.
    """
    if "--config" not in argv:
        return {}
    after = argv[argv.index("--config") + 1 :]
    if not after or after[0].startswith("--"):
        raise UsageError("--config needs the path of a YAML file after it.")
    values = _load(after[0])
    if not isinstance(values, dict):
        raise UsageError(
            f"--config {after[0]}: the file must hold a YAML mapping, lines of `field: value`; it holds "
            f"{'nothing' if values is None else f'a {type(values).__name__}'}."
        )
    wrong = next((key for key in values if not isinstance(key, str)), None)
    if wrong is not None or len(values) > sum(isinstance(key, str) for key in values):
        raise UsageError(
            f"--config {after[0]}: the key {wrong!r} is not text, so it names no field. Write it in quotes, or remove "
            "the line."
        )
    _check_environment(after[0], values.get("env", {}))
    return values


def without_config(argv: list[str]) -> list[str]:
    """Returns the arguments without `--config` and its file."""
    if "--config" not in argv:
        return argv
    position = argv.index("--config")
    return argv[:position] + argv[position + 2 :]


def set_environment(values: dict[str, Any]) -> None:
    """Sets the environment variables of the file's `env` section. Call it before the libraries that read them load."""
    os.environ.update({name: str(value) for name, value in values.get("env", {}).items()})


def _check_environment(path: str, values: Any) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: `env` must be a mapping of variables to values, got {values!r}.")
    for name, value in values.items():
        plain = isinstance(value, (str, int, float))
        if not isinstance(name, str) or not name or "=" in name or "\0" in f"{name}{value}" or not plain:
            raise UsageError(
                f"--config {path}: `env` has {name!r}: {value!r}; a variable is a name with one text or number."
            )


def _load(path: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}. Give the path of a YAML file.") from error
    # PyYAML lets some errors of Python through: of a path with a byte 0, of a date, of a list as key, of depth
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {one_line(error)}") from error
