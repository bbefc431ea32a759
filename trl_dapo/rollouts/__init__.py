"""Generation as a trainer runs it: in bounded calls of `generate`, or by an engine that gets the adapter."""
