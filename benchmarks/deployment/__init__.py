"""`ringfence bench`: any deployment behind OpenAI's API, as a table, JSON and a page."""
