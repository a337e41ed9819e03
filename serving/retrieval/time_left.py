"""What is left of a client's own time, where its request is answered in several steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from serving.domain.calls import RequestOptions
from serving.domain.errors import DeadlineExceeded


class TimeLeft:
    """Counts from when it is made.

    Args:
        options: the client's. Where they have no time, there is always some left.
    """

    def __init__(self, options: RequestOptions) -> None:
        self._options = options
        self._began = _now()

    def options(self) -> RequestOptions:
        """The options of the next step: the same with what is left.

        Raises:
            DeadlineExceeded: nothing is.
        """
        if self._options.timeout_s is None:
            return self._options
        left_s = self._began + self._options.timeout_s - _now()
        if left_s <= 0:
            raise _too_late()
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
            raise _too_late() from None


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The request was not done in its time.")


def _now() -> float:
    return asyncio.get_running_loop().time()
