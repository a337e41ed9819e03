"""Drift of documents and queries: sums that contain no text, and reports on them."""
