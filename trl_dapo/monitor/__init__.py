"""What a run shows of itself: rules that tell what is wrong with it, since when, and what to change."""
