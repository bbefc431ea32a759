"""
Scorers: each says whether a completion's answer is right, as a reward function for TRL and as a judge in evaluations.
"""
