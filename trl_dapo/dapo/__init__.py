"""DAPO: `DAPOTrainer`, its config, and its parts, one file each; dynamic sampling is in `sampling`."""
