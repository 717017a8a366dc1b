"""Bundles over HTTP: many askers, batching, hot swap, the Open Inference Protocol."""
