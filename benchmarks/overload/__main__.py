"""`python -m benchmarks.overload`."""

from __future__ import annotations

import sys

from benchmarks.overload.command import main

sys.exit(main())
