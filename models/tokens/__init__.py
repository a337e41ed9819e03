"""Prompt tokens counted before an engine is called, and chat templates without transformers."""
