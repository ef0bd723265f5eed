"""`python -m hyplearn`."""

import sys

from hyplearn.jobs.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent()  # first of all: what follows takes seconds to import
    from hyplearn.cli.main import main

    sys.exit(main())
