"""The figures that the toolchain is held to: each work is run by us and by its peers, on the same data, in one run.

Run as `python -m benchmarks.toolchain` from the root of the checkout; `toolchain` says what it prints and writes.
"""
