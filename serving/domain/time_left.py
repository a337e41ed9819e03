"""The time that is left of a client's own deadline, for a request answered in several steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from serving.domain.calls import RequestOptions
from serving.domain.errors import DeadlineExceeded


class TimeLeft:
    """Measures the time left since it was made.

    Args:
        options: the client's. Without a time-out of theirs there is always time left.
    """

    def __init__(self, options: RequestOptions) -> None:
        self._options = options
        self._began = _now()

    def options(self) -> RequestOptions:
        """The options of the next step: the same, with the time that is left.

        Raises:
            DeadlineExceeded: no time is left.
        """
        if self._options.timeout_s is None:
            return self._options
        left_s = self._began + self._options.timeout_s - _now()
        if left_s <= 0:
            raise DeadlineExceeded
        return replace(self._options, timeout_s=left_s)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """The scope of a step that has no deadline of its own. Raises as `options` does."""
        left_s = self.options().timeout_s
        try:
            async with asyncio.timeout(left_s) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded from None


def _now() -> float:
    return asyncio.get_running_loop().time()
