"""Quality and speed of retrieval."""
