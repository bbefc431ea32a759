"""PPO: `PPOTrainer`, its config, its critic and the estimates that it learns from."""
