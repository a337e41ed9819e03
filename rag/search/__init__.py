"""Search: filters, fusion of rankings, permissions, and grounding of prompts."""
