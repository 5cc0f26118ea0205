"""`python -m nearfar`: the command line."""

import sys

from nearfar.cli import main

if __name__ == "__main__":
    sys.exit(main())
