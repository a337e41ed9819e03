"""Gateways side by side, before a mock upstream."""
