"""What clients may send, and how objects are shown to them. Types are strict."""
