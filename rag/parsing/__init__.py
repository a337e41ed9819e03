"""Parsing: turns files into text. Runs in separate processes, because files may be hostile."""
