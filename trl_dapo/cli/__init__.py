"""
The command line, `trl-dapo`: one file per command, in the shape of TRL's scripts.

Nothing imports it. `main.py` starts without torch, and each command imports what it needs.
"""
