"""From a plan and its records to tables, figures and a report.

`cli` and the local run call `report.write_report`; everything else here is its parts: `frame` makes the tables, `panels` says what each
figure shows, `laws` puts numbers to trends, `plot` draws, `facts` sums up. Nothing here trains, plans or imports torch; pandas, matplotlib
and jinja2 are imported where they are used, so that the command line starts without them.
"""
