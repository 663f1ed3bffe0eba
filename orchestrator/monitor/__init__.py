"""What a person sees of a study: progress of a run, the grid of cells, where the logs are. Nothing here decides anything."""
