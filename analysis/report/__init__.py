"""Write the report of a study: one page, its figures, its tables."""
