"""Comparison of gateways in front of a mock upstream."""
