"""`python -m benchmarks.startup`."""

from __future__ import annotations

import sys

from benchmarks.startup.command import main

sys.exit(main())
