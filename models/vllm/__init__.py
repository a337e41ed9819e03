"""vLLM as an engine: its configuration, what it is given, and what is made of its answers."""
