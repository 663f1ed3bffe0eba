"""Training states as checkpoint files, and the check of exported models against `transformers`."""
