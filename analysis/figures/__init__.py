"""Figures of a report: their content as plain data, and SVG drawn from it."""
