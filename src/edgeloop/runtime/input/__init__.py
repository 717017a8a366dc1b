"""From what a sensor hands over to the tensor that a model takes."""
