"""Carry: bundles down and readings up, for many devices, with the cloud there or away."""
