"""What the comparison of gateways asks, a module for each kind of question."""
