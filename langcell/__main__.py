"""Run the command line as `python -m langcell`."""

from langcell.cli import main

main()
