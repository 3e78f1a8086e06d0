"""``python -m kdzero_gp`` is the command line."""

from kdzero_gp.cli import main

main()
