"""What every online trainer of this package shares: `GRPOTrainer` and its config."""
