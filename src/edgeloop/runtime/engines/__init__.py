"""What executes a variant: one port, one adapter an engine."""
