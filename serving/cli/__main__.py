"""`python -m serving.cli`."""

from serving.cli.root import main

main()
