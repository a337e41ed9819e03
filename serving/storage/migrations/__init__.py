"""Alembic's scripts, run by `serving.storage.migrate`."""
