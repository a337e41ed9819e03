"""Who answers a request, the model here or a provider, and how one that breaks off goes on."""
