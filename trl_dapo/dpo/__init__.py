"""DPO, with or without a reference model: `DPOTrainer` and its config."""
