"""When a request may leave, and which providers can run it."""
