"""The load client: prompts, raw HTTP connections, and records of requests."""
