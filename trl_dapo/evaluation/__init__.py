"""
Whether answers are right, and how often: scorers, estimators such as avg@k, and evaluation during and after training.
"""
