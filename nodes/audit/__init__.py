"""Auditing queries on site: inputs, confirmation blocks and probes computed once more."""
