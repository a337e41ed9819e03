"""Re-embedding: the generations of a store's vectors, replaced without downtime."""
