"""Vector stores: what is in them, and who may see it."""
