"""What is served and what serves it: catalogue, engines, embedder. No HTTP, keys or tenants."""
