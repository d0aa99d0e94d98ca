"""`python -m aent`, for launchers that start modules."""

import sys

from aent.cli import main

sys.exit(main())
