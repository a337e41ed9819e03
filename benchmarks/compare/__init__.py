"""Servers side by side, on the real engine."""
