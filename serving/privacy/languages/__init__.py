"""Texts in languages that the detector cannot read: they do not leave."""
