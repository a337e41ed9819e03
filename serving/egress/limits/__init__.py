"""Limits at providers: circuit breakers, rate limits and retry budgets, shared by all gateways."""
