"""Fixtures for tests of engines in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from models.delivery.receiver import Receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens on loopback."""
    receiver = Receiver()
    await receiver.listen("127.0.0.1")
    yield receiver
    receiver.close()
    await asyncio.sleep(0.01)
