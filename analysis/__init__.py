"""Tables, figures and a report from a study's plan and records.

The API and the end of a run call `report.page.write_report`. `tables` builds the tables and scores, `laws` fits trends, `figures` describes
and draws the figures, `report` renders the page. This package neither trains nor plans and never imports torch. pandas, matplotlib and
jinja2 are imported inside functions to keep the start of the command line fast.
"""
