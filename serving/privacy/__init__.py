"""The privacy contract: classes, personal data found, replaced by pseudonyms, and restored."""
