"""The training loop: optimizer, schedule, one step, ranks, and a whole run."""
