"""Vector stores: their records, their files, and who may see them."""
