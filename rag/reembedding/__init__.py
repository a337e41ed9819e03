"""Generations of a store's vectors: the first, and the next without downtime."""
