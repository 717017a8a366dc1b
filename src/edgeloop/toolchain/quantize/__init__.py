"""Fewer bits for the same answers: weights and activations as integers, in every engine's own way, measured."""
