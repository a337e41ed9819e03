"""Uploaded files: their rows, their bytes, batches of them, and when they expire."""
