"""Run the command line as ``python -m blockbuster``."""

import os
import sys

if __name__ == "__main__":
    # Python puts the current folder first, where a numpy.py would take the place of NumPy.
    if os.path.realpath(sys.path[0]) == os.path.realpath(os.curdir):
        sys.path.append(sys.path.pop(0))
    from blockbuster.cli import main

    sys.exit(main())
