"""Bodies of the OpenAI API: what clients may send, and the objects that they get."""
