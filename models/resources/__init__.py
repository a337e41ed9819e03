"""What a model takes and a machine has: memory, types of numbers, weights."""
