"""A run taken up again from an earlier step, once as it was and once per changed setting."""
