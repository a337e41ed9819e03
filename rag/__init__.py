"""Retrieval: documents in, cited passages out. May import `models`, never `serving`."""
