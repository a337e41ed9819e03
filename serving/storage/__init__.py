"""Persistent state: the SQL database, its tables and migrations, and Valkey."""
