"""What a run needs before it is started: memory over its phases, and seconds per step."""
