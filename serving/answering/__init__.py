"""Who answers a request, the local model or a provider, and how a broken answer is continued."""
