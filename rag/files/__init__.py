"""Uploaded files: their rows, their bytes, their batches and their expiry."""
