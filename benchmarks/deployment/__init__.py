"""`ringfence bench`: measures any OpenAI-compatible deployment; reports as table, JSON and HTML."""
