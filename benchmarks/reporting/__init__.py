"""From measurements to published figures: statistics, tables, JSON and the log."""
