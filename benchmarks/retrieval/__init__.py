"""How good retrieval is, and how fast."""
