"""
The update phase at the cost of its real tokens: rows sorted by length, padding cut, prompts read once.

Knows rows and passes through a model; knows neither rewards nor algorithms.
"""
