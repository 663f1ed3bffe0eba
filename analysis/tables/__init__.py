"""Tidy tables, scores and a summary of a study, from its plan and records."""
