"""
Where runs are started: on this machine, through Slurm, or on a Ray cluster.

A launcher starts a run, looks at it and stops it; which runs there are and in what order is `runner`'s. Slurm and Ray
schedule by themselves. Everywhere a run has a lock on its folder and a watcher, see `process` and `watcher`.
"""

from .launcher import Ending, Launcher, LauncherError, Run
from .local import LocalLauncher
from .ray import RayLauncher
from .slurm import SlurmLauncher


__all__ = ["Ending", "Launcher", "LauncherError", "LocalLauncher", "RayLauncher", "Run", "SlurmLauncher"]
