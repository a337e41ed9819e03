"""Resources of machines and models: memory, floating-point types, weights."""
