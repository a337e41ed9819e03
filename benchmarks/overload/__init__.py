"""Effects of overload on goodput and on other tenants."""
