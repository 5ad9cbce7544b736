"""Weights as they lie in files, read and renamed."""
