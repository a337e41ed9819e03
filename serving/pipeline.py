"""The path of a request, top to bottom. Policies are ordinary calls, not middleware."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from uuid import uuid4

from pydantic import SecretStr

from models.catalog import ModelSpec
from models.embedding.embedder import Embedder, Embeddings
from models.engine import Engine, GenerationRequest, TokenizeRequest, Tokens, Usage
from models.tokens.token_counter import TokenCounter, upper_bound, upper_bound_of_texts
from serving.access.authenticator import Authenticator
from serving.accounting.estimate import TokenBudget
from serving.answering.routing import GeneratedAnswer, Routing
from serving.answering.targets import ReceiptIssuer
from serving.attempts import Attempts, Forecast
from serving.domain.calls import Call, EmbeddingCall, GenerationCall
from serving.domain.errors import InvalidRequest, NotPermitted, UnknownModel, Unsupported
from serving.domain.principal import Principal
from serving.domain.quota import Quota
from serving.domain.route import LOCAL_ROUTE, Origin
from serving.domain.search_call import FileSearch, RetrievedPassages, SearchCall
from serving.retrieval.citing import cited
from serving.retrieval.knowledge import Knowledge

COLLECTED_STREAM_INTERVAL = 64
"""Tokens in a delta of an answer that is collected anyway, where no parser reads it."""


class Pipeline:
    """Everything between the parsed request and the rendered answer.

    Args:
        authenticator: turns a key into a principal.
        attempts: lets requests in, and settles what they used.
        routing: finds who answers a generation.
        specs: the served models, by id.
        engines: of the models that generate.
        embedders: of the models that embed.
        counters: of all models.
        secret: salts the prefix cache, so that no tenant can probe another's prompts.
        knowledge: what can be looked up; None: no embedding model is served.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        attempts: Attempts,
        routing: Routing,
        specs: Mapping[str, ModelSpec],
        engines: Mapping[str, Engine],
        embedders: Mapping[str, Embedder],
        counters: Mapping[str, TokenCounter],
        secret: SecretStr,
        knowledge: Knowledge | None = None,
        receipt_issuer: ReceiptIssuer | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._attempts = attempts
        self._routing = routing
        self._specs = specs
        self._engines = engines
        self._embedders = embedders
        self._counters = counters
        self._secret = secret.get_secret_value().encode()
        self._knowledge = knowledge
        self._receipt_issuer = receipt_issuer

    async def authenticate(self, authorization: str | None) -> Principal:
        """The caller behind an `Authorization` header.

        Raises:
            AccessError: no key, a wrong one, or one that cannot be checked now.
        """
        principal = await self._authenticator.authenticate(authorization)
        if principal.role != "inference":
            raise NotPermitted("An admin key does not run models; use an inference key.")
        return principal

    async def may_begin(self, principal: Principal, request_id: str) -> None:
        """Refuse a request that is not read yet and that a limit of its caller forbids already.

        Raises:
            RateLimited: which limit, and when to try again.
        """
        await self._attempts.check(principal, request_id)

    def models(self, principal: Principal) -> list[ModelSpec]:
        """The models this caller may use, in the order of the configuration."""
        return [spec for spec in self._specs.values() if principal.may_use(spec.id)]

    def model(self, principal: Principal, model: str, *, task: str | None = None) -> ModelSpec:
        """The model of that name, if this caller may use it, for that task.

        Raises:
            UnknownModel: not served, or not to this caller; the two are told alike.
            InvalidRequest: served, but for another task.
        """
        spec = self._specs.get(model)
        if spec is None or not principal.may_use(model):
            raise UnknownModel(model)
        if task is not None and spec.task != task:
            raise InvalidRequest(f"The model {model!r} does not {task}.", param="model")
        return spec

    @asynccontextmanager
    async def generate(
        self, call: GenerationCall, file_search: FileSearch | None = None
    ) -> AsyncIterator[GeneratedAnswer]:
        """Run one generation: the scope owns its reservation, its place and the engine's stream.

        The first delta has arrived when the scope is entered, so a failure up to then has a
        status of its own. Leaving the scope, however, stops the engine and settles what was used.

        Args:
            call: what is asked for.
            file_search: what a chat is grounded in first; its answer tells the sources.

        Raises:
            RingfenceError: the model cannot be used, or the request is not let in.
            EngineError: the engine refused or failed.
        """
        spec = self.model(call.principal, call.model, task="generate")
        if file_search is None:
            async with self._answer(call, spec) as generation:
                yield generation
            return
        grounded = await self._known(param="file_search").grounding.ground(call, file_search)
        choices = call.body.get("n") or 1
        async with (
            self._answer(grounded.call, spec) as generation,
            aclosing(cited(generation.deltas, grounded.sources, choices=choices)) as deltas,
        ):
            yield replace(generation, deltas=deltas)

    @asynccontextmanager
    async def _answer(
        self, call: GenerationCall, spec: ModelSpec
    ) -> AsyncIterator[GeneratedAnswer]:
        interval = _stream_interval(call, spec)
        request = GenerationRequest(
            request_id=uuid4().hex,
            kind=call.kind,
            body=call.body | {"model": call.model, "cache_salt": self._salt(call.principal)},
            stream_interval=interval,
        )
        forecast = self._forecast(call, interval)
        async with self._routing.answer(call, request, forecast) as generation:
            yield generation

    async def search(self, call: SearchCall) -> RetrievedPassages:
        """Passages of vector stores that the caller may see, best first.

        Raises:
            RingfenceError: a store is not there, or the search is not let in, or cannot be run.
            EngineError: the embedder or the reranker failed.
        """
        return await self._known().searches.search(call)

    async def embed(self, call: EmbeddingCall) -> tuple[Embeddings, Origin, Quota]:
        """Embed a request's texts. Returns the vectors, their origin, and what is left of limits.

        Raises:
            RingfenceError: the model cannot be used, or has fewer dimensions than asked for.
            EngineError: the embedder refused or failed.
        """
        spec = self.model(call.principal, call.model, task="embed")
        _check_dimensions(call.dimensions, spec.dimension)
        counter = self._counters[spec.id]
        forecast = Forecast(
            TokenBudget.of_embedding(len(call.inputs), counter.context_tokens),
            count=lambda: counter.count_texts(call.inputs),
            bound=lambda: upper_bound_of_texts(call.inputs),
        )
        async with self._attempts.begin(call, endpoint="embedding", forecast=forecast) as (
            record,
            quota,
        ):
            embeddings = await self._embedders[spec.id].embed(call.inputs)
            record.usage = Usage(sum(embeddings.token_counts), 0)
            _check_dimensions(call.dimensions, embeddings.vectors.shape[1])
            if self._receipt_issuer is not None:
                record.receipt = self._receipt_issuer.receipt(call, LOCAL_ROUTE, ())
        return embeddings, Origin(call.privacy, receipt=record.receipt), quota

    async def tokenize(self, call: Call, request: TokenizeRequest) -> tuple[Tokens, Quota]:
        """Token ids of a text or a conversation; uses no tokens of a limit.

        Raises:
            RingfenceError, EngineError: as `generate` does.
        """
        engine = self._engine(call)
        async with self._attempts.begin(call, endpoint="tokenize") as (_, quota):
            return await engine.tokenize(request), quota

    async def detokenize(self, call: Call, token_ids: list[int]) -> tuple[str, Quota]:
        """Text of token ids; uses no tokens of a limit. Raises as `tokenize` does."""
        engine = self._engine(call)
        async with self._attempts.begin(call, endpoint="detokenize") as (_, quota):
            return await engine.detokenize(token_ids), quota

    def _known(self, *, param: str | None = None) -> Knowledge:
        if self._knowledge is None:
            raise Unsupported(
                "No embedding model is served here, so no vector store can be searched.",
                param=param,
            )
        return self._knowledge

    def _engine(self, call: Call) -> Engine:
        return self._engines[self.model(call.principal, call.model, task="generate").id]

    def _forecast(self, call: GenerationCall, interval: int) -> Forecast:
        counter = self._counters[call.model]
        return Forecast(
            TokenBudget.of(call.kind, call.body, counter.context_tokens),
            count=lambda: counter.count(call.kind, call.body),
            bound=lambda: upper_bound(call.kind, call.body),
            interval=interval,
        )

    def _salt(self, principal: Principal) -> str:
        return _salt(self._secret, principal.tenant)


def _stream_interval(call: GenerationCall, spec: ModelSpec) -> int:
    """Tokens in a delta: one where a parser reads the answer, since most were made for that."""
    if call.kind == "chat" and spec.parses(call.body):
        return 1
    return spec.stream_interval if call.stream else COLLECTED_STREAM_INTERVAL


@lru_cache(maxsize=4096)
def _salt(secret: bytes, tenant: str) -> str:
    return hmac.new(secret, f"prefix-cache:{tenant}".encode(), hashlib.sha256).hexdigest()


def _check_dimensions(asked: int | None, dimension: int | None) -> None:
    if asked is not None and dimension is not None and asked > dimension:
        raise InvalidRequest(
            f"dimensions is at most {dimension} for this model.", param="dimensions"
        )
