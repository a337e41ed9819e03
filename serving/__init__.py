"""The backend: HTTP in, tokens out. Knows models only through the protocols of `models`."""
