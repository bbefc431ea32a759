"""Dynamic sampling: which groups teach something, where new prompts come from, how kept rows are replayed."""
