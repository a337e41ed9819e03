"""Ingestion of files into published chunks, recovery after a crash, and the consistency check."""
