"""Embedders and rerankers, and the Serve deployments that run them."""
