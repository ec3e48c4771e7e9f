"""`python -m lamer` is `lamer`."""

from lamer.cli import main

main()
