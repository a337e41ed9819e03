"""The egress ledger: a signed hash chain of everything that left, and receipts."""
