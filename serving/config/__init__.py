"""`ringfence.yaml` and the environment, read once into frozen settings. One group per part.

The only module that reads the process environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from models.catalog import ModelSpec, builtin
from serving.config.group import Group
from serving.config.overflow import LedgerSettings, OverflowSettings, PrivacySettings
from serving.config.retrieval import FileSettings, RetrievalSettings

QUIET_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ANONYMIZED_TELEMETRY": "False",
}
"""No telemetry and no download at run time: set for every process we start."""

EMBEDDED_VALKEY = "RINGFENCE_EMBEDDED_VALKEY"
"""Tells gateways the URL of the Valkey that `ringfence serve` has started. Not for operators."""

DEFAULT_MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has one sentence for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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
        """Where this machine reaches the server; every interface includes loopback."""
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
        """Where the server secret is kept when the configuration gives none."""
        return self.home / "secret"


class StorageSettings(Group):
    """State that all gateways share. Valkey is started with the server unless a URL is given."""

    valkey: SecretStr | None = Field(
        None, description="valkey(s)://, redis(s):// or unix:// URL of Valkey or Redis."
    )


def _bound_entry(value: Any) -> Any:
    """A bare value is one with the default policy."""
    return value if isinstance(value, Mapping) else {"value": value}


class Bound(Group):
    """One limit, and what it does while Valkey cannot be asked."""

    value: int = Field(ge=0, lt=2**53)
    without_store: Literal["allow", "refuse"] = "allow"


class Budget(Group):
    """What may be spent, in the currency, and what happens while Valkey cannot be asked."""

    value: Decimal = Field(ge=0, le=9_000_000, decimal_places=9)
    without_store: Literal["allow", "refuse"] = "refuse"


Bounded = Annotated[Bound, BeforeValidator(_bound_entry, json_schema_input_type=int | Bound)]
Budgeted = Annotated[
    Budget, BeforeValidator(_bound_entry, json_schema_input_type=float | str | Budget)
]


class RateDefaults(Group):
    """Limits of whoever has none of their own. A bare number, or `{value, without_store}`."""

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
    """How usage is told."""

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
        hint = _did_you_mean(str(base), known)
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
                        hint = _did_you_mean(name, served)
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
                hint = _did_you_mean(name, served)
                raise ValueError(f"retrieval.{field}: no model {name!r} is served to {task}{hint}")
        return self

    @property
    def embedder(self) -> str | None:
        """The model that embeds new vector stores; None: there is no retrieval."""
        return self.retrieval.embedder or self._first("embed")

    @property
    def reranker(self) -> str | None:
        """The model that looks at the best passages again, if any."""
        return self.retrieval.reranker or self._first("rerank")

    def _first(self, task: str) -> str | None:
        return next((spec.id for spec in self.models if spec.task == task), None)

    @property
    def files_url(self) -> str:
        """Where the bytes of files are kept."""
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

    @property
    def models_dir(self) -> Path:
        """Where prepared weights are kept."""
        return self.home / "models"


def read(path: Path | None) -> dict[str, Any]:
    """The mapping in a configuration file, `${ENV}` not yet filled in; empty without a file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    if path is None:
        return {}
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"cannot read {str(path)!r}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{str(path)!r} is not YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError([f"{str(path)!r} must hold a mapping, not {type(raw).__name__}"])
    return raw


def parse(raw: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a configuration mapping and the environment.

    Raises:
        ConfigError: an unknown key, a wrong value, or an unset `${ENV}`.
    """
    environ = os.environ if environ is None else environ
    if given := {"home", "api_key", "embedded_valkey"} & set(raw):
        raise ConfigError([f"{min(given)}: set in the environment, not in the configuration"])
    if "home" in _group(raw, "access"):
        raise ConfigError(["access.home: unknown key; the state directory is RINGFENCE_HOME"])
    home = Path(environ.get("RINGFENCE_HOME") or ".ringfence").absolute()
    filled = dict(_fill(raw, environ, "")) if raw else {}
    if port := environ.get("RINGFENCE_PORT"):
        filled["server"] = _group(filled, "server") | {"port": port}
    filled["access"] = _group(filled, "access") | {"home": home}
    api_key = environ.get("RINGFENCE_API_KEY") or None
    try:
        own = {"home": home, "api_key": api_key, "embedded_valkey": environ.get(EMBEDDED_VALKEY)}
        return Settings.model_validate(filled | own)
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None


def _group(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = raw.get(name) or {}
    if not isinstance(group, Mapping):
        raise ConfigError([f"{name}: must hold a mapping, not {type(group).__name__}"])
    return dict(group)


def load(path: Path | None = None) -> Settings:
    """Settings from a file (or RINGFENCE_CONFIG, or the built-in configuration).

    Raises:
        ConfigError: see `read` and `parse`.
    """
    return parse(read(config_path(path)))


def config_path(path: Path | None) -> Path | None:
    """The file given, else the one RINGFENCE_CONFIG names, else none."""
    named = os.environ.get("RINGFENCE_CONFIG")
    return path or (Path(named) if named else None)


def export_environment(values: Mapping[str, str]) -> None:
    """Set variables for this process and those it starts."""
    os.environ.update(values)


def json_schema() -> dict[str, Any]:
    """JSON Schema of `ringfence.yaml`."""
    schema = Settings.model_json_schema()
    for name in ("home", "api_key", "embedded_valkey"):
        schema["properties"].pop(name, None)
    schema["$defs"]["AccessSettings"]["properties"].pop("home", None)
    entry = {"anyOf": [{"enum": sorted(builtin())}, {"$ref": "#/$defs/ModelSpec"}]}
    schema["properties"]["models"]["items"] = entry
    entry_of = schema["$defs"]["ModelSpec"]
    entry_of["properties"]["base"] = {
        "enum": sorted(builtin()),
        "description": "Take this catalogue entry and change the fields given here.",
    }
    del entry_of["required"]
    entry_of["anyOf"] = [{"required": ["id"]}, {"required": ["base"]}]
    schema["title"] = "ringfence.yaml"
    return schema


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _fill(value: Any, environ: Mapping[str, str], where: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _fill(v, environ, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, environ, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if missing := [name for name in _VARIABLE.findall(value) if name not in environ]:
        raise ConfigError([f"{where}: the environment variable {missing[0]} is not set"])
    return _VARIABLE.sub(lambda found: environ[found[1]], value)


def _problems(error: ValidationError) -> list[str]:
    rows = [dict(item) for item in error.errors()]
    real = [row for row in rows if row["type"] != "too_short"]  # Bad entries also leave it short.
    return [_sentence(row) for row in real or rows]


def _sentence(error: dict[str, Any]) -> str:
    where = _dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{_did_you_mean(str(error['loc'][-1]), _fields(error['loc']))}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}".lstrip(": ")


def _dotted(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _fields(loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields beside the one at `loc`."""
    group: Any = Settings
    for part in loc[:-1]:
        if not isinstance(part, str) or part not in getattr(group, "model_fields", {}):
            continue
        annotation = group.model_fields[part].annotation
        found = [a for a in (annotation, *_arguments(annotation)) if hasattr(a, "model_fields")]
        group = found[0] if found else None
    fields = getattr(group, "model_fields", {})
    return [name for name, field in fields.items() if not field.exclude]


def _arguments(annotation: Any) -> list[Any]:
    inner = list(get_args(annotation))
    return inner + [deep for one in inner for deep in _arguments(one)]


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
