"""`python -m monque`: the command line."""

import sys

from monque.cli import main

sys.exit(main())
