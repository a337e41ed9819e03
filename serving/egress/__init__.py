"""The way out: providers, when they are used, and the record of everything that left."""
