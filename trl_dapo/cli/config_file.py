"""
Reads the file that `--config` names, before anything slow is imported.
"""

import os
from pathlib import Path
from typing import Any

from .errors import UsageError, one_line


def split_config_flag(argv: list[str]) -> list[str]:
    """Returns the arguments with `--config=FILE` split in two, the only form that TRL's parser knows."""
    words: list[str] = []
    for word in argv:
        words += word.split("=", 1) if word.startswith("--config=") else [word]
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
    if not isinstance(values.get("env", {}), dict):
        raise UsageError(
            f"--config {after[0]}: `env` must be a mapping of variables to values, got {values['env']!r}."
        )
    return values


def set_environment(values: dict[str, Any]) -> None:
    """Sets the environment variables of the file's `env` section. Call it before the libraries that read them load."""
    os.environ.update({name: str(value) for name, value in values.get("env", {}).items()})


def _load(path: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}. Give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {one_line(error)}") from error
