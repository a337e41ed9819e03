"""Clients of external providers, and the gate that their bytes pass."""
