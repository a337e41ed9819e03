"""`python -m benchmarks.gateways`."""

from __future__ import annotations

import sys

from benchmarks.gateways.command import main

sys.exit(main())
