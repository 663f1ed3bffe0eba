"""Read-only views of a study for users: progress of a run, the grid of cells, and the location of logs."""
