"""Accounting: prices, the usage ledger and its reports. Knows no keys and no limits."""
