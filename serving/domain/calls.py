"""Calls: what a caller asks of a model, and with which options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.engine import Kind
from serving.domain.principal import Principal
from serving.domain.privacy_class import PrivacyClass

Priority = Literal["interactive", "background"]

OnFailure = Literal["fail", "continue"]
"""What becomes of an answer that breaks off after its first delta."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Options of a request beside its body: its priority, and when the client stops waiting."""

    priority: Priority = "interactive"
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who asks which model for something, and with which options."""

    request_id: str
    principal: Principal
    model: str
    options: RequestOptions = RequestOptions()
    privacy: PrivacyClass = "local_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCall(Call):
    """A validated generation. `body` holds only fields that an engine may see.

    `on_failure` is about an answer that breaks off after its first delta.
    """

    kind: Kind
    body: dict[str, Any]
    stream: bool
    on_failure: OnFailure = "fail"

    @property
    def continues(self) -> bool:
        """Whether a broken answer is continued: wanted, and one plain text of a chat."""
        if self.on_failure != "continue" or self.kind != "chat":
            return False
        answer_format = (self.body.get("response_format") or {}).get("type", "text")
        one_text = (self.body.get("n") or 1) == 1 and answer_format == "text"
        return one_text and not self.body.get("logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall(Call):
    """A validated embedding request: texts, or token ids of each text."""

    inputs: list[str] | list[list[int]]
    dimensions: int | None
