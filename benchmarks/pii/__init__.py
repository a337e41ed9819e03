"""How much personal data is found, how exactly, and at what cost."""
