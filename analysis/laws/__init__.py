"""How metrics move with size."""
