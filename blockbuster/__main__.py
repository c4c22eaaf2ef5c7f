"""Run the command line as ``python -m blockbuster``."""

import sys

from blockbuster.cli import main

if __name__ == "__main__":
    sys.exit(main())
