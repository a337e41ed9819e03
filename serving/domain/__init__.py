"""Values and words that every part of the backend shares: errors, principals, privacy classes."""
