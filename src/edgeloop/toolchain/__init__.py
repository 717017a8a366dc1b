"""Make: train, quantize, convert, check, package."""

import os

# TensorFlow 2.21's oneDNN kernels corrupt the heap while small residual networks are fitted: five crashes in five runs
# with them, none without. It is read when TensorFlow is first imported, by whichever library does that.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
