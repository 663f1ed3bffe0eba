"""One attempt at one task, and the processes in which attempts run."""
