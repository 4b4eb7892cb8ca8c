"""`python -m tutelage`: the command, where its script is not on the path."""

from tutelage.cli import main

main()
