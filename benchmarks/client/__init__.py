"""The load client: prompts, raw HTTP connections, and what is recorded of each request."""
