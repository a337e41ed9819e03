"""The vector index and the full-text index over chunks, and the check of their embedders."""
