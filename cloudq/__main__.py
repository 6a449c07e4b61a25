"""`python -m cloudq`: the command line, where the `cloudq` script is not on the path."""

import sys

from cloudq.cli import main

if __name__ == "__main__":
    sys.exit(main())
