"""The settings of `ringfence.yaml`: one group for each part, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from models.catalog import ModelSpec, builtin
from serving.config.group import Group
from serving.config.overflow import LedgerSettings, OverflowSettings, PrivacySettings
from serving.config.problems import ConfigError, did_you_mean
from serving.config.retrieval import FileSettings, RetrievalSettings

DEFAULT_MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")


class ServerSettings(Group):
    """The HTTP edge. Times in seconds, sizes in bytes."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless changed.")
    port: int = Field(8000, ge=1, le=65535)
    gateway_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(1024, ge=1, description="Open in one gateway at once.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    body_timeout_s: float = Field(15.0, gt=0, description="For a request's body to arrive.")
    first_delta_timeout_s: float = Field(300.0, gt=0, description="Queueing and prefill.")
    stall_timeout_s: float = Field(120.0, gt=0, description="Between two deltas.")
    keep_alive_s: float = Field(15.0, gt=0, description="Silence before a comment is sent.")
    drain_s: float = Field(
        30.0, gt=0, description="For open requests to end at a stop; those left get an error."
    )

    @property
    def local_url(self) -> str:
        """URL at which this machine reaches the server; every interface includes loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class LimitSettings(Group):
    """Bounds on one request, so that none can occupy the machine."""

    max_choices: int = Field(8, ge=1, description="`n`, and prompts times `n`.")
    max_messages: int = Field(2048, ge=1)
    max_tools: int = Field(128, ge=0)
    max_stop_sequences: int = Field(16, ge=0)
    max_depth: int = Field(64, ge=8, description="Nesting of JSON.")
    max_schema_bytes: int = Field(64 * 1024, ge=256, description="All of one request together.")
    max_embedding_inputs: int = Field(2048, ge=1)


class AccessSettings(Group):
    """Who may call. The store is SQLite in the state directory unless a URL is given."""

    database: SecretStr | None = Field(None, description="postgresql://... or sqlite:////path")
    secret: SecretStr | None = Field(None, description="Keys the HMAC of API keys; `${ENV}`.")
    home: Path = Field(Path(".ringfence"), exclude=True)

    @property
    def database_url(self) -> str:
        """URL of the key store."""
        if self.database is not None:
            return self.database.get_secret_value()
        return f"sqlite:///{self.home / 'ringfence.db'}"

    @property
    def secret_file(self) -> Path:
        """File of the server secret, if the configuration gives none."""
        return self.home / "secret"


class StorageSettings(Group):
    """State that all gateways share. Valkey is started with the server unless a URL is given."""

    valkey: SecretStr | None = Field(
        None, description="valkey(s)://, redis(s):// or unix:// URL of Valkey or Redis."
    )


def _bound_entry(value: Any) -> Any:
    """A bare value is one with the default policy."""
    return value if isinstance(value, Mapping) else {"value": value}


class LimitDefault(Group):
    """A limit, and its policy while Valkey is unreachable."""

    value: int = Field(ge=0, lt=2**53)
    without_store: Literal["allow", "refuse"] = "allow"


class BudgetDefault(Group):
    """A budget in the currency, and its policy while Valkey is unreachable."""

    value: Decimal = Field(ge=0, le=9_000_000, decimal_places=9)
    without_store: Literal["allow", "refuse"] = "refuse"


Bounded = Annotated[
    LimitDefault, BeforeValidator(_bound_entry, json_schema_input_type=int | LimitDefault)
]
Budgeted = Annotated[
    BudgetDefault, BeforeValidator(_bound_entry, json_schema_input_type=float | str | BudgetDefault)
]


class RateDefaults(Group):
    """Default limits. Each is a bare number, or `{value, without_store}`."""

    requests_per_minute: Bounded | None = None
    tokens_per_minute: Bounded | None = None
    concurrent_requests: Bounded | None = None
    tokens_per_request: Bounded | None = None


class SpendingDefaults(RateDefaults):
    """Limits, and budgets over a day, a month (both UTC) and altogether."""

    budget_day: Budgeted | None = None
    budget_month: Budgeted | None = None
    budget_total: Budgeted | None = None


class AdmissionSettings(Group):
    """Who is let in, and in which order. Limits of a single one are set by the admin API."""

    per_key: SpendingDefaults = SpendingDefaults()
    per_tenant: SpendingDefaults = SpendingDefaults()
    per_model: RateDefaults = RateDefaults()
    max_queue_wait_s: float = Field(
        10.0, ge=0, description="A request that would wait longer for a place is refused."
    )
    overload_wait_s: float = Field(
        1.0, ge=0, description="The same while a queue has not been empty for ten seconds."
    )
    max_request_s: float = Field(1800.0, gt=0, description="From admission to the last byte.")


class IdempotencySettings(Group):
    """Answers kept, encrypted, for a repeat with the same `Idempotency-Key`."""

    ttl_s: float = Field(86_400.0, gt=0)
    max_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Of one answer.")


class AccountingSettings(Group):
    """How usage is reported."""

    currency: str = Field("USD", pattern="^[A-Z]{3}$", description="Of prices and budgets.")


class RaySettings(Group):
    """The Ray cluster that is started, or joined when `address` is set."""

    address: str | None = Field(None, description="Join this cluster instead of starting one.")
    logical_cpus: int | None = Field(None, ge=1, description="Default: as needed.")
    object_store_bytes: int = Field(256 * 1024 * 1024, ge=80 * 1024 * 1024)


def _model_entry(value: Any) -> Any:
    """A catalogue name, a change to a catalogue entry (`base` or the same id), or a whole model."""
    if isinstance(value, str):
        value = {"id": value, "base": value}
    if not isinstance(value, Mapping):
        return value
    base = value.get("base", value.get("id"))
    known = builtin()
    if isinstance(base, str) and base in known:
        return known[base].model_dump(exclude_unset=True) | {
            k: v for k, v in value.items() if k != "base"
        }
    if "base" in value:
        hint = did_you_mean(str(base), known)
        raise ValueError(f"{base!r} is not in the catalogue{hint}")
    return value


class Settings(Group):
    """All settings. `home` is the state directory."""

    home: Path = Field(Path(".ringfence"), exclude=True)
    api_key: SecretStr | None = Field(None, exclude=True, description="From RINGFENCE_API_KEY.")
    embedded_valkey: str | None = Field(None, exclude=True, description="URL of the one we started")
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    access: AccessSettings = AccessSettings()
    storage: StorageSettings = StorageSettings()
    admission: AdmissionSettings = AdmissionSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    accounting: AccountingSettings = AccountingSettings()
    overflow: OverflowSettings = OverflowSettings()
    privacy: PrivacySettings = PrivacySettings()
    ledger: LedgerSettings = LedgerSettings()
    files: FileSettings = FileSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    ray: RaySettings = RaySettings()
    models: tuple[Annotated[ModelSpec, BeforeValidator(_model_entry)], ...] = Field(
        default=DEFAULT_MODELS, validate_default=True, min_length=1
    )

    @model_validator(mode="after")
    def _unique_models(self) -> Settings:
        ids = [spec.id for spec in self.models]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"models: {twice[0]!r} stands twice")
        return self

    @model_validator(mode="after")
    def _known_stand_ins(self) -> Settings:
        served = {spec.id for spec in self.models if spec.task == "generate"}
        for provider in self.overflow.providers:
            for model in provider.models:
                for name in model.stands_in_for:
                    if name not in served:
                        hint = did_you_mean(name, served)
                        raise ValueError(
                            f"overflow: {provider.name} stands in for {name!r}, which is no model "
                            f"here that generates{hint}"
                        )
        return self

    @model_validator(mode="after")
    def _known_retrieval_models(self) -> Settings:
        for field, task in (("embedder", "embed"), ("reranker", "rerank")):
            name = getattr(self.retrieval, field)
            served = [spec.id for spec in self.models if spec.task == task]
            if name is not None and name not in served:
                hint = did_you_mean(name, served)
                raise ValueError(f"retrieval.{field}: no model {name!r} is served to {task}{hint}")
        return self

    @property
    def embedder(self) -> str | None:
        """The model that embeds new vector stores; None if there is no retrieval."""
        return self.retrieval.embedder or self._first("embed")

    @property
    def reranker(self) -> str | None:
        """The model that looks at the best passages again, if any."""
        return self.retrieval.reranker or self._first("rerank")

    def _first(self, task: str) -> str | None:
        return next((spec.id for spec in self.models if spec.task == task), None)

    @property
    def files_url(self) -> str:
        """The place where the bytes of files are kept."""
        return self.files.url or str(self.home / "files")

    @property
    def valkey_url(self) -> str:
        """URL of the Valkey that gateways share.

        Raises:
            ConfigError: none is configured, and none was started.
        """
        if self.storage.valkey is not None:
            return self.storage.valkey.get_secret_value()
        if self.embedded_valkey is None:
            raise ConfigError(
                ["storage.valkey: set the URL of a Valkey; only `ringfence serve` starts one"]
            )
        return self.embedded_valkey

    def model(self, model_id: str) -> ModelSpec | None:
        """The served model of that id."""
        return next((spec for spec in self.models if spec.id == model_id), None)
