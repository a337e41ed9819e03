"""`ringfence`, the command. Heavy imports wait for the command that needs them."""

from serving.cli.root import main

__all__ = ["main"]
