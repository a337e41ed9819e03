"""Models and what runs them: catalogue, engines, embedders. No HTTP, keys or tenants."""
