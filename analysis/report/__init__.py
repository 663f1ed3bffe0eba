"""The report of a study: one HTML page, figures and table files."""
