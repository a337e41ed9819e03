"""The two indexes over chunks, vectors and full text, and what pins vectors to their embedder."""
