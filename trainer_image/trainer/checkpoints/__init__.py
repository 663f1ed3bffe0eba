"""Training states as files, and their check against `transformers`."""
