"""Clients of the public API that measure it. Import nothing of the backend."""
