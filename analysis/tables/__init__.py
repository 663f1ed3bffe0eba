"""Tidy tables of a study, from its plan and records."""
