"""Telemetry: metrics and logs. Neither ever holds prompt or answer text."""
