"""The running node and its HTTP service."""
