"""`python -m benchmarks.pii`."""

from __future__ import annotations

import sys

from benchmarks.pii.command import main

sys.exit(main())
