"""Settings of overflow: providers, when they answer, and the scrubbing of personal data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from models.catalog import Price
from serving.config.group import Group
from serving.domain.languages import LANGUAGES
from serving.domain.operator_pattern import OperatorPattern
from serving.domain.privacy_class import Action, EntityType

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Trigger = Literal[
    "queue_wait", "overloaded", "engine_unavailable", "engine_error", "context_length"
]
TRIGGERS: tuple[Trigger, ...] = (
    "queue_wait",
    "overloaded",
    "engine_unavailable",
    "engine_error",
)
"""The triggers that are on by default."""


def _pattern(text: str) -> str:
    OperatorPattern(text)
    return text


def _word(text: str) -> str:
    if not re.search(r"\w", text):
        raise ValueError("has neither letter nor digit")
    return text


def _language(code: str) -> str:
    if code not in LANGUAGES:
        named = {one.name.lower(): known for known, one in LANGUAGES.items()}
        close = get_close_matches(code.lower(), [*named, *LANGUAGES], n=1)
        hint = f"; did you mean {named.get(close[0], close[0])!r}?" if close else ""
        raise ValueError(f"{code!r} is no code of a language that is told from others{hint}")
    return code


def _check_url(url: str, *, allow_http: bool) -> None:
    parts = urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("base_url has a host and a path, and nothing else")
    if parts.scheme != "https" and not (parts.scheme == "http" and (here or allow_http)):
        raise ValueError("base_url begins with https; allow_http: true lets http go out")


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_pattern)]
Word = Annotated[
    str,
    StringConstraints(min_length=2, max_length=128, strip_whitespace=True),
    AfterValidator(_word),
]


LanguageCode = Annotated[str, AfterValidator(_language)]


class ProviderModelSettings(Group):
    """A model of a provider, and what it can do. Requests that need more are not sent to it."""

    model: str = Field(min_length=1, max_length=128, description="As the provider calls it.")
    stands_in_for: tuple[str, ...] = Field(min_length=1, description="Ids of our models.")
    context_tokens: int = Field(ge=256)
    max_output_tokens: int | None = Field(None, ge=1)
    tools: bool = True
    json_schema: bool = False
    json_object: bool = False
    vision: bool = False
    logprobs: bool = False
    seed: bool = Field(default=False, description="Heeds a seed as well as it can.")
    completions: bool = Field(default=False, description="Takes plain prompts too.")
    continuation: bool = Field(
        default=False, description="Goes on with an answer that broke off, its last message."
    )
    max_choices: int = Field(1, ge=1, description="The most answers to one request (`n`).")
    price: Price = Price()


class ProviderSettings(Group):
    """An external provider. Without a bound its own limits are found by its refusals."""

    name: Name
    kind: Literal["openai", "azure", "anthropic"] = Field(
        description="`openai`: any server with OpenAI's API."
    )
    base_url: str | None = Field(None, description="Default: the provider's own.")
    api_key: SecretStr
    api_version: str | None = Field(None, description="Azure's, with its older kind of URL.")
    allow_http: bool = Field(default=False, description="Without TLS; loopback needs no leave.")
    models: tuple[ProviderModelSettings, ...] = Field(min_length=1)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrent_requests: int | None = Field(None, ge=1)
    connect_timeout_s: float = Field(5.0, gt=0)
    first_delta_timeout_s: float = Field(60.0, gt=0)
    stall_timeout_s: float = Field(30.0, gt=0)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.base_url is not None:
            _check_url(self.base_url, allow_http=self.allow_http)
        if self.kind == "azure" and self.base_url is None:
            raise ValueError("an Azure provider needs base_url, the endpoint of its resource")
        if self.api_version is not None and self.kind != "azure":
            raise ValueError("api_version is Azure's")
        return self


class NarrowerOverflow(Group):
    """Exceptions for one model or one key. Only `max_wait_s` may be looser."""

    enabled: bool = True
    providers: tuple[str, ...] | None = Field(None, description="Fewer, or in another order.")
    triggers: tuple[Trigger, ...] | None = None
    max_wait_s: float | None = Field(None, ge=0)
    max_share: float | None = Field(None, ge=0, le=1)


class OverflowSettings(Group):
    """When providers answer, and in which order. Never for requests of class `local_only`."""

    providers: tuple[ProviderSettings, ...] = ()
    triggers: tuple[Trigger, ...] = TRIGGERS
    max_wait_s: float = Field(2.0, ge=0, description="Overflow begins when a place takes longer.")
    resume_wait_s: float = Field(0.5, ge=0, description="Who waits longer leaves while it lasts.")
    dwell_s: float = Field(
        10.0, ge=0, description="It ends when no place took longer for this time."
    )
    first_delta_timeout_s: float = Field(
        30.0, gt=0, description="For the local model, where a provider can answer in its place."
    )
    max_share: float = Field(0.5, gt=0, le=1, description="Of a model's requests in a minute.")
    per_model: Mapping[str, NarrowerOverflow] = Field(default_factory=dict)
    per_key: Mapping[str, NarrowerOverflow] = Field(default_factory=dict, description="By key id.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [one.name for one in self.providers]
        if len(set(names)) < len(names):
            raise ValueError("a provider's name stands twice")
        parts = [*self.per_model.values(), *self.per_key.values()]
        for name in {one for part in parts for one in part.providers or ()} - set(names):
            raise ValueError(f"{name!r} is no provider here")
        if self.resume_wait_s > self.max_wait_s:
            raise ValueError("resume_wait_s is at most max_wait_s")
        return self


class PrivacySettings(Group):
    """How personal data is found, and what is done to it before anything leaves."""

    actions: Mapping[EntityType, Action] = Field(
        default_factory=dict, description="Of a kind; the others: `mask`."
    )
    tenants: Mapping[str, Mapping[EntityType, Action]] = Field(
        default_factory=dict, description="The same for one tenant, over `actions`."
    )
    patterns: Mapping[Name, Pattern] = Field(default_factory=dict, description="Of your own data.")
    words: Mapping[Name, tuple[Word, ...]] = Field(default_factory=dict, description="The same.")
    allow_languages: tuple[LanguageCode, ...] = Field(
        (),
        description="Languages, such as `de`, that leave though only English is read for names.",
    )
    detector_replicas: int = Field(1, ge=1)
    detector_timeout_s: float = Field(2.0, gt=0, description="For a thousand characters.")


class LedgerSettings(Group):
    """The record of what left, and the key that signs it."""

    signing_key: Path | None = Field(None, description="Ed25519, PEM; default: made once in home.")
    origin: str = Field(
        "ringfence/egress-ledger",
        pattern=r"^[^\s+]{1,200}$",
        description="Name in checkpoints; before a witness sees them, one under a domain of yours.",
    )
    checkpoint_file: Path | None = Field(
        None, description="Signed checkpoints are appended here too, best on another machine."
    )
    receipts: bool = Field(default=True, description="A signed receipt on every answer.")
