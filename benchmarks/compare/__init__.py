"""Comparison of servers that run the real engine."""
