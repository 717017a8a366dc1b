"""Data to train on, to calibrate with and to judge by: read from where it lies, split into parts that never mix."""
