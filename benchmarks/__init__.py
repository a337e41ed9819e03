"""Benchmarks: clients of the public API that measure it. They import nothing of the backend."""
