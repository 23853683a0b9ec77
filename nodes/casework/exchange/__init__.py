"""Formats in which faces are exchanged between authorities: ANSI/NIST-ITL files, and a mapping to UMF."""
