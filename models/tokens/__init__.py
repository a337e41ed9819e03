"""Prompt tokens, counted before an engine is asked; chat templates without transformers."""
