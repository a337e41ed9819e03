"""Policy of overflow: when a request may leave, and which providers can run it."""
