"""Make: train, quantize, convert, check, package."""
