"""`/admin/v1/privacy/preview`."""

from __future__ import annotations

from typing import Any

from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]


def asked(tenant: str = "acme", text: str = "Ask Jane Roe.") -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": text}]}
    return {"tenant": tenant, "body": body}


async def test_preview_shows_what_would_leave(managed: Managed) -> None:
    told = await managed.data("POST", "/privacy/preview", asked())
    said = told["body"]["messages"][0]["content"]
    assert (told["leaves"], told["entities"]) == (True, {"PERSON": 1})
    assert said.startswith("Ask PERSON_")
    assert "Jane" not in said


async def test_preview_says_why_nothing_would_leave(managed: Managed) -> None:
    told = await managed.data("POST", "/privacy/preview", asked("strict"))
    assert (told["leaves"], told["reason"], told["body"]) == (False, "blocked", None)
    assert told["detail"] == "The policy lets nothing leave that holds PERSON."


async def test_preview_says_which_languages_are_read(managed: Managed) -> None:
    told = await managed.data("POST", "/privacy/preview", asked(text="Ask 李畅."))
    assert (told["leaves"], told["reason"], told["body"]) == (False, "unscrubbable", None)
    assert told["detail"] == "The request has text in the Han script, which is not read for names."
    assert (told["read_languages"], told["allowed_languages"]) == (["en"], [])


async def test_preview_is_in_no_audit(managed: Managed) -> None:
    await managed.data("POST", "/privacy/preview", asked())
    assert await managed.audit() == []


async def test_preview_of_what_is_no_request_is_refused(managed: Managed) -> None:
    refused = await managed.refusal("POST", "/privacy/preview", {"tenant": "acme"})
    assert refused == (400, None, "body")
