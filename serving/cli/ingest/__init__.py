"""What `ringfence ingest` finds, plans and does."""
