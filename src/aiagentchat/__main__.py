"""`python -m aiagentchat` is `cchat`, for where the script itself is not on the path."""

import sys

from aiagentchat.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
