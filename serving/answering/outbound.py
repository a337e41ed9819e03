"""The outbound request: what would leave, scrubbed once for all providers that are tried.

For the class `scrubbed`, personal data has given way to pseudonyms, and the very bytes are scanned
once more before they go. For `open` the request is as it was. Nothing else gets here.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydantic import SecretStr

from models.openai_stream import Chunk
from models.threads import Threads
from serving.answering.resume.overlap import Overlap, repeats
from serving.answering.resume.resume_points import PartialText, resume
from serving.domain.errors import LeavingRefused
from serving.domain.privacy_class import EntityType, PrivacyClass
from serving.privacy.json_text import LONG_NUMBER
from serving.privacy.languages.unread_text import load_identifier
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.patterns.patterns import find
from serving.privacy.policy import PrivacyPolicy
from serving.privacy.pseudonyms import Pseudonyms, conversation_id, conversation_key
from serving.privacy.refusals import Blocked, MayNotLeave, StillPersonal, Unscrubbable
from serving.privacy.scrubbing.rescan import rescan
from serving.privacy.scrubbing.restored_stream import AnswerRestorer, answers_in_json, restored
from serving.privacy.scrubbing.scrub import scrub
from serving.privacy.spans import Detector, DetectorUnavailable

_THREADS = Threads("rescan", 4)

RESCAN_TIMEOUT_S = 5.0

_BOUNDS = ("max_completion_tokens", "max_tokens", "min_tokens")

_REASONS: Mapping[type[Exception], str] = {
    Blocked: "blocked",
    Unscrubbable: "unscrubbable",
    StillPersonal: "still_personal",
    DetectorUnavailable: "detector_unavailable",
}


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request in the state in which it may leave.

    Attributes:
        body: as it would be sent.
        policy: the version of what decided.
        entities: how many values of each type it lost.
        rules: the operator's own, for the last scan.
        pseudonyms: what stands for them; None: nothing was replaced.
        restorer: of its one answer, whoever gives it: what is held back is kept.
        languages: that may leave unread, for the last scan.
        begun: what there is of that answer, as those outside said it or may see it.
        heard: what came after that.
    """

    body: dict[str, Any] = field(repr=False)
    policy: str
    entities: Mapping[EntityType, int]
    rules: OperatorRules = field(repr=False)
    pseudonyms: Pseudonyms | None = field(default=None, repr=False)
    restorer: AnswerRestorer | None = field(default=None, repr=False)
    languages: frozenset[str] = frozenset()
    begun: str = field(default="", repr=False)
    heard: list[str] = field(default_factory=list, repr=False)

    async def check(self, content: bytes) -> None:
        """Look at the bytes that are about to be sent, off the loop.

        Raises:
            LeavingRefused: they hold personal data, or cannot be read in time.
        """
        if self.pseudonyms is None:
            return
        finder, issued = partial(find, rules=self.rules), self.pseudonyms.issued
        scan = partial(rescan, content, finder, issued, self.languages)
        try:
            async with asyncio.timeout(RESCAN_TIMEOUT_S):
                await _THREADS.run(scan)
        except MayNotLeave as error:
            raise refusal(error) from None
        except TimeoutError:
            raise LeavingRefused("The last scan took too long.", reason="still_personal") from None

    def restored(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
        """The chunks of an answer with what was replaced, as they come."""
        return _unchanged(chunks) if self.restorer is None else restored(chunks, self.restorer)

    def resume(self, body: Mapping[str, Any], tokens: int) -> OutboundRequest:
        """Return the request that continues a partial answer.

        Args:
            body: as the client sent it, for the bounds of its answer.
            tokens: about how many there are of that.
        """
        begun = self.begun + "".join(self.heard)
        messages = self.body["messages"][:-1] if self.begun else self.body["messages"]
        new = self.body | {name: body[name] for name in _BOUNDS if name in body}
        new = resume(new | {"messages": messages}, begun, tokens)
        return replace(self, body=new, begun=begun, heard=[])

    async def noted(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """The chunks of a chat's answer without what they repeat of it. What they say is kept."""
        overlap = Overlap(repeats(self.begun))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield {**chunk, "choices": [self._new(one, overlap) for one in chunk["choices"]]}

    def _new(self, choice: Chunk, overlap: Overlap) -> Chunk:
        """Return a choice with the new part of its text."""
        said = choice["delta"].get("content") or ""
        text = overlap.feed(said)
        if choice.get("finish_reason") is not None:
            text += overlap.flush()
        self.heard.append(text)
        return choice if text == said else {**choice, "delta": {**choice["delta"], "content": text}}


class Scrubber:
    """Makes requests ready to leave.

    Args:
        detector: finds personal data.
        rules: the operator's own, for the last scan.
        secret: keys the pseudonyms.
        default: the policy of tenants.
        tenants: policies of their own.
        timeout_s: for the detector.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        rules: OperatorRules,
        secret: SecretStr,
        default: PrivacyPolicy,
        tenants: Mapping[str, PrivacyPolicy],
        timeout_s: float,
    ) -> None:
        load_identifier()  # Now, or the first request waits for it.
        self._detector = detector
        self._rules = rules
        self._secret = secret
        self._default = default
        self._tenants = tenants
        self._timeout_s = timeout_s

    @property
    def languages(self) -> frozenset[str]:
        """Languages that may leave although they are not read for names."""
        return self._default.languages

    async def outbound(
        self,
        body: Mapping[str, Any],
        *,
        tenant: str,
        privacy: PrivacyClass,
        partial: PartialText | None = None,
    ) -> OutboundRequest:
        """Build what would leave of a request; with `partial`, to continue a local answer.

        Raises:
            LeavingRefused: its class or its content forbids it, or nobody can say what is in it.
        """
        policy = self._tenants.get(tenant, self._default)
        if partial is not None:
            body = resume(body, partial.text, partial.tokens)
        begins = partial is None or not partial.text
        if privacy == "open":
            begun = "" if begins else _last(body)
            return OutboundRequest(dict(body), policy.version, {}, self._rules, begun=begun)
        if privacy != "scrubbed":
            raise LeavingRefused("This request stays here.", reason="privacy")
        conversation = conversation_id(self._secret, tenant, body)
        key = conversation_key(self._secret, tenant, conversation)
        try:
            scrubbed = await scrub(
                body, self._detector, policy=policy, key=key, timeout_s=self._timeout_s
            )
        except (MayNotLeave, DetectorUnavailable) as error:
            raise refusal(error) from None
        restorer = AnswerRestorer(scrubbed.pseudonyms, in_json=answers_in_json(body))
        if isinstance(seed := body.get("seed"), int):
            scrubbed.body["seed"] = _other_seed(key, seed)
        return OutboundRequest(
            scrubbed.body,
            policy.version,
            scrubbed.counts,
            self._rules,
            scrubbed.pseudonyms,
            restorer,
            policy.languages,
            begun="" if begins else _last(scrubbed.body),
        )


def refusal(error: MayNotLeave | DetectorUnavailable) -> LeavingRefused:
    """An error of the privacy part, as the path has it."""
    reason = next(_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS)
    detail = str(error) if isinstance(error, MayNotLeave) else None
    return LeavingRefused(str(error), reason=reason, detail=detail)


def _last(body: Mapping[str, Any]) -> str:
    """Return the text of the last message."""
    return str(body["messages"][-1]["content"])


def _other_seed(key: bytes, seed: int) -> int:
    """A small number in its place, the same for the same seed: a client's may be anything."""
    digest = hmac.digest(key, f"seed:{seed}".encode(), "sha256")
    return int.from_bytes(digest[:4]) % LONG_NUMBER


async def _unchanged(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    async for chunk in chunks:
        yield chunk
