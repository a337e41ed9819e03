"""Retrieval on the path of a request: passages found, put into prompts, and cited in answers."""
