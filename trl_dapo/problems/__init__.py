"""
Problems with verifiable answers: data sets by name, files, and prompts that ask for the answer in a scorer's format.
"""
