"""`python train.py ...` is `hyplearn train ...`: see `python train.py --help`."""

import sys

from hyplearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
