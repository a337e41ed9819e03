"""What a start of `ringfence serve` to its first answer is made of."""
