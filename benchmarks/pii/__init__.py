"""Evaluation of the detection of personal data: recall, precision and cost."""
