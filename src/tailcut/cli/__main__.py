"""`python -m tailcut.cli`: the same as the command `tailcut`."""

import sys

from tailcut.cli import main

if __name__ == "__main__":
    sys.exit(main())
