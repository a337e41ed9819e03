"""Clients of the HTTP API, for the commands."""
