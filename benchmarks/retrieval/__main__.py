"""`python -m benchmarks.retrieval`."""

from __future__ import annotations

import sys

from benchmarks.retrieval.command import main

sys.exit(main())
