"""Reward models: `RewardTrainer` that makes one, `RewardModelFunction` that scores with it."""
