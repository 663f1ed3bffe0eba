"""Study files with their stores and plans: reading, fingerprinting, planning, freezing the plan.

Called by the command line and the controller. Reads files.
"""
