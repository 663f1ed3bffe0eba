"""What training and evaluation read: prepared sources, and the order of their windows."""
