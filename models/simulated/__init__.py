"""The simulated engine: vLLM's scheduling and streams without a model, for tests and studies."""
