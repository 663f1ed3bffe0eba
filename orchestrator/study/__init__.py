"""A study file and its store, opened: read, fingerprinted, planned, frozen. Reads files; called by the command line and the controller."""
