"""Reward models: `RewardTrainer` trains one, `RewardModelFunction` scores with it in any online trainer."""
