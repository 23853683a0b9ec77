"""The command line, `lineup`."""
