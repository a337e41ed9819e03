"""Reporting of measurements: statistics, tables, JSON and the log."""
