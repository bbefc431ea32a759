"""A run on the screen: progress, metrics, dynamic sampling, samples and findings, in a terminal or a notebook."""
