"""Entry point of `python -m tailcut`, the command line."""

import sys

from tailcut.cli import main

if __name__ == "__main__":
    sys.exit(main())
