"""`python -m hyplearn`."""

import sys

from hyplearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
