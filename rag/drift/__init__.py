"""Drift of documents and questions: sums without text, and reports over them."""
