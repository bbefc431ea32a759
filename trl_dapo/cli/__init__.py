"""
The command line, `trl-dapo`. `commands.py` is the table of training commands; `script.py` runs any of them.

No other folder imports this one. `main.py` starts without torch, and each command imports what it needs.
"""
