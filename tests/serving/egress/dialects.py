"""Both wire formats behind one interface, for tests that every provider must pass."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from serving.egress.providers.provider import (
    Deadlines,
    Provider,
    ProviderError,
)
from serving.egress.providers.transport import AnswerBounds
from tests.serving.egress.calls import (
    PATIENT,
    anthropic_at,
    collect,
    openai_at,
    request,
)
from tests.serving.egress.standin import Behaviour, StandIn
from tests.serving.egress.wire_format import (
    HELLO,
    anthropic_error,
    named_sse,
    openai_error,
    sse,
)

__all__ = ["ANTHROPIC", "OPENAI", "Dialect", "dialect", "failed"]


@dataclass(frozen=True)
class Dialect:
    """A provider's wire format: an incomplete answer, a whole one, one more piece, an error."""

    at: Callable[..., AbstractAsyncContextManager[tuple[StandIn, Provider]]]
    begun: bytes
    whole: bytes
    piece: bytes
    error: Callable[[str, str], dict[str, Any]]
    event: Callable[[dict[str, Any]], bytes]


def _sse(event: dict[str, Any]) -> bytes:
    return sse(event, done=False)


OPENAI = Dialect(
    openai_at,
    sse(*HELLO.openai()[:2], done=False),
    sse(*HELLO.openai()),
    sse(HELLO.openai()[1], done=False),
    openai_error,
    _sse,
)
ANTHROPIC = Dialect(
    anthropic_at,
    named_sse(*HELLO.anthropic()[:4]),
    named_sse(*HELLO.anthropic()),
    named_sse(HELLO.anthropic()[3]),
    anthropic_error,
    named_sse,
)


@pytest.fixture(params=[OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


async def failed(
    dialect: Dialect,
    *script: Behaviour,
    bounds: AnswerBounds | None = None,
    deadlines: Deadlines = PATIENT,
) -> ProviderError:
    """Return the error of one call; check that the connection is closed and nothing was retried."""
    async with dialect.at(*script, bounds=bounds) as (server, provider):
        with pytest.raises(ProviderError) as caught:
            await collect(provider, request(deadlines=deadlines))
        assert len(server.received) == 1
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert "canary" not in repr(vars(caught.value))
    return caught.value
