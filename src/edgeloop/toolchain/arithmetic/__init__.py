"""What a model file computes, read from the file itself."""
