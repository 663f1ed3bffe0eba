"""The decoder model and its loss."""
