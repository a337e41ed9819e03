"""Whether a request is let in, and when: limits, budgets, reservations, and a fair queue."""
