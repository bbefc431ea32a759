"""
What a run was made with: versions, hardware, commit.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from .. import __version__


PACKAGES = ("torch", "trl", "transformers", "accelerate", "peft", "datasets", "bitsandbytes", "vllm")


def environment() -> dict[str, Any]:
    """Returns versions, hardware and commit, as JSON has them. What is not there is left out."""
    found: dict[str, Any] = {
        "trl_dapo": __version__,
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name)) is not None},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    commit = _commit()
    return found if commit is None else {**found, "commit": commit}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    """Returns the commit of this package's repository, with a mark where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed package may lie in the folder of another repository
        tracked = subprocess.run([*git, "ls-files", Path(__file__).name], capture_output=True, text=True, timeout=10)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode or not tracked.stdout.strip():
        return None
    return commit.stdout.strip()[:12] + (" (with changes)" if changed.stdout.strip() else "")
