"""External providers: a request goes out, chunks of the answer and one usage record come back.

Knows nothing of HTTP, of privacy classes, or of when a provider is used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.engine import Kind, Usage
from models.openai_stream import Chunk

NOT_CONNECTED = "not_connected"
"""The code of a `ProviderUnavailable` that is raised before any byte of the request has left."""


class ProviderError(Exception):
    """An error of a provider. No message holds text of a prompt, an answer or the provider.

    ProviderError
    ├── ProviderRateLimited      a limit of ours there is reached
    ├── ProviderOverloaded       it has more requests than it serves
    ├── ProviderUnavailable      no connection, no answer in time, or it failed
    ├── ProviderRejected         it does not take this request, now or later
    ├── ProviderDenied           it does not take our key, or our money
    └── ProviderBroken           what it sent is not a whole, well-formed answer

    Attributes:
        retryable: whether the same request may succeed there at another time.
        code: an identifier of the cause, the provider's own or ours; never a sentence.
        retry_after_s: when to try again at the earliest, if the provider told it.
    """

    retryable = True

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s


class ProviderRateLimited(ProviderError):
    """A limit of requests or tokens is reached."""


class ProviderOverloaded(ProviderError):
    """The provider has more requests than it serves."""


class ProviderUnavailable(ProviderError):
    """No connection, no answer in time, or the provider failed."""


class ProviderRejected(ProviderError):
    """The provider does not take this request. `context_length`: because it is too long."""

    retryable = False

    def __init__(
        self, message: str, *, code: str | None = None, context_length: bool = False
    ) -> None:
        super().__init__(message, code=code)
        self.context_length = context_length


class ProviderDenied(ProviderError):
    """The provider does not take our key, or the account has no money."""

    retryable = False


class ProviderBroken(ProviderError):
    """The provider's answer is incomplete or malformed."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Deadlines of a provider. A mere sign of life, such as a ping, is no event.

    Attributes:
        connect_s: for a connection, and again for its TLS handshake.
        first_event_s: from when the request may leave to the first event of the answer.
        idle_s: between two events.
        total_s: for everything.
    """

    connect_s: float = 5.0
    first_event_s: float = 30.0
    idle_s: float = 30.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A generation for a provider, in the state in which it may leave.

    `body` is an OpenAI request of that kind; fields the provider does not take are not sent.
    `model` is the provider's name of the model. `answer_tokens` is the most that an answer may have
    where the body names no limit, for providers that want one.
    """

    request_id: str
    kind: Kind
    model: str
    body: dict[str, Any] = field(repr=False)
    deadlines: Deadlines = Deadlines()
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Departure:
    """A departure: its URL without the query, and its very bytes."""

    request_id: str
    destination: str
    body: bytes = field(repr=False)


class Gate(Protocol):
    """Decides whether bytes leave, and records it before they do."""

    async def __call__(self, departure: Departure) -> None:
        """Return to let them go, raise to forbid it. Its time is not the provider's."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderHeadroom:
    """Our limits as a provider reports them with each answer or refusal; None if it does not.

    Attributes:
        requests: that may still be sent.
        requests_reset_s: seconds until there are as many as there can be.
        tokens: the same for tokens; of several kinds, the one with the fewest left.
        tokens_reset_s: as above.
        retry_after_s: what it asks to wait.
    """

    requests: int | None = None
    requests_reset_s: float | None = None
    tokens: int | None = None
    tokens_reset_s: float | None = None
    retry_after_s: float | None = None

    @property
    def wait_s(self) -> float | None:
        """Return how long to send nothing: as asked, or else until the limits reset."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        pairs = ((self.requests, self.requests_reset_s), (self.tokens, self.tokens_reset_s))
        return max(
            (reset for left, reset in pairs if left == 0 and reset is not None), default=None
        )


Observe = Callable[[ProviderHeadroom], None]

Received = Callable[[int], None]
"""Gets the length of each piece of an answer's HTTP body, in bytes, as the piece is read.

A body is counted after TLS and after the framing of HTTP (chunk sizes, HTTP/2 frames), and before
its events are parsed. Status lines and headers are not counted.
"""


class Provider(Protocol):
    """Runs models on somebody else's machines."""

    def generate(
        self, request: ProviderRequest, *, gate: Gate, observe: Observe, received: Received
    ) -> AsyncGenerator[Chunk | Usage, None]:
        """Yield chunks in order, then exactly one `Usage` as the last item.

        Every chunk has a choice or more and no usage; all have one id, `created` and model name.
        All choices have had their `finish_reason` when the usage comes. The first chunk comes
        with the first that says something, so that a failure before it can go unseen. Closing the
        generator closes the connection.

        Args:
            request: what to run.
            gate: is asked once, before the first byte leaves. What it raises is raised here.
            observe: gets what the provider's answer tells of our limits, before the first chunk.
            received: gets how long each piece of the answer is, refusals too.

        Raises:
            ProviderError: any of the tree; after the first item too.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections. Generators that still run fail."""
        ...
