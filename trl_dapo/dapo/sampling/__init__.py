"""Dynamic sampling: which prompts are generated, which groups are trained on."""
