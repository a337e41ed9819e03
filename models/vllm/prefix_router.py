"""Which replica runs a request: the one whose KV cache has seen how the conversation began.

vLLM keeps the keys and values of prompts it has computed, each replica its own. A conversation
that stays on one replica is computed once; over N replicas at random, up to N times.

Ray Serve LLM's prefix-aware router is not used: it imports vLLM and torch into the gateway (500 MB)
and keeps the text of prompts in an actor of its own. This one keeps nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from models.engine import GenerationRequest

OPENING_LENGTH = 1024
"""Characters, or token ids, of a prompt without messages that are taken as its beginning."""

HEADROOM = 4
"""A replica is passed over when it runs more than 1/HEADROOM of its slots above the idlest one."""


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped.
    """Rendezvous hashing of a conversation's opening over the replicas.

    A replica that comes or goes moves only the conversations that it gains or had. Where the
    chosen replica is much busier than another, or the call is no generation, the less busy of two
    at random is taken. Busy is what this gateway has running there: Ray's own count of a replica
    comes with an answer's end and is as old as the answer.
    """

    def initialize_state(self) -> None:
        """Begin to count. Called by Ray."""
        self._running: Counter[ReplicaID] = Counter()

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Count a call that goes out. Called by Ray."""
        super().on_send_request(replica_id)
        self._running[replica_id] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count a call that has ended, however it did. Called by Ray."""
        super().on_request_completed(replica_id, internal_request_id)
        self._running[replica_id] -= 1
        if self._running[replica_id] <= 0:
            del self._running[replica_id]

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas to try; Ray takes the first rank that has a free slot."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        # Ray tries again at once, without end, unless it is told that all were tried.
        pending_request.routing_context.should_backoff = True
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        ranks = [[min(two, key=self._load)], candidate_replicas]
        request = pending_request.args[0] if pending_request.args else None
        if not isinstance(request, GenerationRequest):
            return ranks
        home = chosen(opening(request), candidate_replicas)
        return ranks if self._much_busier(home, candidate_replicas) else [[home], *ranks]

    def _load(self, replica: RunningReplica) -> int:
        return self._running[replica.replica_id]

    def _much_busier(self, home: RunningReplica, replicas: Sequence[RunningReplica]) -> bool:
        ahead = self._load(home) - min(map(self._load, replicas))
        return bool(ahead > home.max_ongoing_requests / HEADROOM)


def opening(request: GenerationRequest) -> bytes:
    """Digest of what every later turn of a conversation begins with, other for each tenant.

    That is the messages up to the user's first: a system prompt alone would put a whole
    application on one replica. The tenant is in the salt of its prefix cache.
    """
    body = request.body
    beginning: Any
    if request.kind == "chat":
        roles = [message.get("role") for message in body["messages"]]
        end = roles.index("user") + 1 if "user" in roles else len(roles)
        beginning = body["messages"][:end]
    else:
        beginning = _first(body["prompt"])[:OPENING_LENGTH]
    text = orjson.dumps([body.get("cache_salt"), beginning])
    return hashlib.blake2b(text, digest_size=16).digest()


def _first(prompt: Any) -> Any:
    """The prompt, or the first of several: a text or token ids."""
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return prompt[0] if several else prompt


def chosen(key: bytes, replicas: Sequence[RunningReplica]) -> RunningReplica:
    """The replica with the highest hash of `key` and its own id."""

    def weight(replica: RunningReplica) -> bytes:
        name = replica.replica_id.unique_id.encode()
        return hashlib.blake2b(key + name, digest_size=8).digest()

    return max(replicas, key=weight)
