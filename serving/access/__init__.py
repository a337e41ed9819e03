"""Who may call: API keys, and the principal that a good one stands for. No HTTP."""
