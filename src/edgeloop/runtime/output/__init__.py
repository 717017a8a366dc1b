"""From the tensors that a model answers to a decision."""
