"""`python evaluate.py ...` is `hyplearn evaluate ...`: see `python evaluate.py --help`."""

import sys

from hyplearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
