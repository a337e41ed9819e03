"""Answers recorded under idempotency keys, for a repeated request on any gateway."""
