"""Attempts: performing a task under its lease, and the processes in which attempts run."""
