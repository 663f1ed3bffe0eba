"""How metrics change with model size."""
