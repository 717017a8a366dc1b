"""Run: sense, infer, select, keep, update."""
