"""Engines, embedders and rerankers in other processes, reached through Ray Serve handles."""
