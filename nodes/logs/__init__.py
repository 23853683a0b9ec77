"""Logs that show tampering: entries, keys, checkpoints, holds. Imports nothing here: a verifier needs little of it."""
