"""The studies of the comparison of gateways, a module for each kind."""
