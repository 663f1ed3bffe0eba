"""Figures, as data and as SVG."""
