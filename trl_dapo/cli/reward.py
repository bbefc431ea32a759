"""
The training script of `trl-dapo reward`: the command starts it in each process.

It also starts without the command: `accelerate launch -m trl_dapo.cli.reward --config run.yaml`.
"""

import sys
from functools import partial

from trl_dapo.cli import script
from trl_dapo.cli.commands import COMMANDS


__all__ = ["main", "make_parser", "run_script"]

main = partial(script.main, COMMANDS["reward"])
make_parser = partial(script.make_parser, COMMANDS["reward"])
run_script = partial(script.run_script, COMMANDS["reward"])

if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:]))
