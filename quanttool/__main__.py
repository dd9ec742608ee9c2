"""`python -m quanttool`."""

from .cli import main

main()
