"""Data access of training and evaluation: prepared sources, and the order of their windows."""
