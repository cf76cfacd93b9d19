"""`python -m npublas`: the same as the command `npublas`."""

import sys

from npublas.cli import main

if __name__ == "__main__":
    sys.exit(main())
