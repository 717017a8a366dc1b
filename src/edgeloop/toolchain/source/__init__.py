"""Trained models as they come, each behind one face: named arrays in, named arrays out."""
