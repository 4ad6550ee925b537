"""The gateway from Python, for the command line."""
