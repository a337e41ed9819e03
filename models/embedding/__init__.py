"""Embedders and rerankers, and the deployments that run them."""
