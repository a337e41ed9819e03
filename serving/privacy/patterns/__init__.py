"""Values with a known format, found by patterns: numbers, addresses, credentials."""
