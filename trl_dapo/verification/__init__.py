"""
Checks of a run before it starts: whether the reward, the data and the model mean what the user means.
"""
