"""
Ablations: which part of a method does what, with seeds, matched budgets and intervals.

In here: designs (which rows a table has), the results of runs, statistics over them, and reports. Not in here: how a
run is configured and started, which is the command line's.
"""
