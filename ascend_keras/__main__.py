"""`python -m ascend_keras` is the command `ascend-keras`."""

import sys

from ascend_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
