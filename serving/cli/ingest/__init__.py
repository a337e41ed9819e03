"""`ringfence ingest`: finds files, plans changes of a vector store, and carries them out."""
