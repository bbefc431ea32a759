"""
TRL's trainers as this package meets them: which release, which private parts, how a run is saved and resumed.

What names a private part of TRL, transformers or accelerate is in here, or in a trainer that overrides it.
"""
