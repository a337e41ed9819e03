"""A pipeline on fakes, wired like a gateway's."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from models.catalog import ModelSpec
from models.embedding.embedder import Embedder
from models.engine import Engine, Kind
from models.tokens.token_counter import TokenCounter, counter
from serving.access.authenticator import Authenticator
from serving.access.invalidation import Invalidations
from serving.access.keys import KeyStore
from serving.answering.explanations import Explanations
from serving.answering.routing import Routing
from serving.config import Settings
from serving.domain.model_state import ModelState
from serving.pipeline import Pipeline
from serving.privacy.spans import Detector
from serving.ray_cluster.engine_watch import EngineWatch
from serving.storage.database import Database
from serving.storage.valkey import Valkey
from serving.telemetry.meter import Meter
from serving.wiring.admission import AdmissionParts
from serving.wiring.egress import EgressParts

SECRET = SecretStr("server-secret-of-the-tests-0123456789")
FIXED_KEY = "fixed-key-of-the-tests"
PATIENCE_S = 10.0

Wire = Callable[..., tuple[Pipeline, AdmissionParts, Meter]]


class NeverAsked:
    """States without any model."""

    async def __call__(self) -> dict[str, ModelState]:
        return {}


class CharacterCounter(TokenCounter):
    """Counts one token per character of a prompt, like the fake embedder."""

    context_tokens = 64

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int:
        return len(str(body.get("messages") or body.get("prompt"))) if kind else 0

    async def count_texts(self, inputs: Any) -> int:
        return sum(map(len, inputs))


INVENTED_KEY = "k1"
"""Key id of invented principals. No store has it, and `invent_key` never returns it."""


def invent_key() -> str:
    """Return an id of a key that only one test uses, for its own rows in the shared ledger."""
    return f"{INVENTED_KEY}-{secrets.token_hex(6)}"


class LenientAuthenticator(Authenticator):
    """Also accepts invented principals."""

    async def still_works(self, key_id: str) -> bool:
        invented = key_id.partition("-")[0] == INVENTED_KEY
        return invented or await super().still_works(key_id)


@pytest.fixture
async def wire(database: Database, embedded_valkey_url: str, tmp_path: Path) -> AsyncIterator[Wire]:
    """Wire gateways; two with one `prefix` share limits like two replicas."""
    opened: list[tuple[AdmissionParts, EgressParts]] = []

    def build(
        specs: tuple[ModelSpec, ...],
        engines: Mapping[str, Engine],
        embedders: Mapping[str, Embedder],
        *,
        prefix: str | None = None,
        detector: Detector | None = None,
        is_ready: Callable[[str], bool] = bool,  # Every model that has a name.
        **settings: Any,
    ) -> tuple[Pipeline, AdmissionParts, Meter]:
        settings = {"storage": {"valkey": embedded_valkey_url}, "home": tmp_path} | settings
        read = Settings.model_validate(settings | {"models": specs})
        prefix = prefix or f"{{test-{secrets.token_hex(6)}}}:"
        meter = Meter()
        invalidations = Invalidations.open(read.valkey_url, prefix=prefix)
        keys, fixed_key = KeyStore(database, SECRET), SecretStr(FIXED_KEY)
        authenticator = LenientAuthenticator(
            keys, SECRET, fixed_key=fixed_key, changes=invalidations
        )
        admission_parts = AdmissionParts.open(
            database,
            read,
            authenticator=authenticator,
            invalidations=invalidations,
            meter=meter,
            is_ready=is_ready,
            prefix=prefix,
        )
        be_patient(admission_parts.valkey)
        explanations = Explanations(admission_parts.valkey, admission_parts.ledger, prefix=prefix)
        egress_parts = EgressParts.open(
            read,
            database=database,
            valkey=admission_parts.valkey,
            secret=SECRET,
            detector=detector,
            queues=admission_parts.admission.queues,
            engines=EngineWatch(NeverAsked()),
            explanations=explanations,
            prefix=prefix,
        )
        opened.append((admission_parts, egress_parts))
        pipeline = _pipeline(
            authenticator,
            admission_parts,
            egress_parts,
            specs,
            engines=engines,
            embedders=embedders,
        )
        return pipeline, admission_parts, meter

    yield build
    for admission_parts, egress_parts in opened:
        await egress_parts.close()
        await admission_parts.close()


def be_patient(valkey: Valkey) -> None:
    """Give calls more than a gateway's half second: a machine that runs tests may be busy."""
    valkey._timeout_s = PATIENCE_S
    valkey._client.connection_pool.connection_kwargs["socket_connect_timeout"] = PATIENCE_S


def _pipeline(
    authenticator: Authenticator,
    admission_parts: AdmissionParts,
    egress_parts: EgressParts,
    specs: tuple[ModelSpec, ...],
    *,
    engines: Mapping[str, Engine],
    embedders: Mapping[str, Embedder],
) -> Pipeline:
    return Pipeline(
        authenticator=authenticator,
        attempts=admission_parts.attempts,
        routing=Routing(
            attempts=admission_parts.attempts,
            engines=engines,
            overflow=egress_parts.overflow,
            receipt_issuer=egress_parts.receipt_issuer,
        ),
        specs={spec.id: spec for spec in specs},
        engines=engines,
        embedders=embedders,
        counters={spec.id: _counter(spec) for spec in specs},
        secret=SECRET,
        receipt_issuer=egress_parts.receipt_issuer,
    )


def _counter(spec: ModelSpec) -> TokenCounter:
    return counter(spec, None, None) if spec.simulated else CharacterCounter()
