"""Attention Patchbay."""
