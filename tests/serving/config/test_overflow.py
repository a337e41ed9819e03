"""Overflow settings: mistakes are reported, and everything is off by default."""

from __future__ import annotations

from typing import Any

import pytest

from serving.config import ConfigError, Settings, parse

MODEL = {"model": "large", "stands_in_for": ["simulated"], "context_tokens": 4096}
PROVIDER: dict[str, Any] = {
    "name": "far", "kind": "openai", "api_key": "sk-unprinted", "models": [MODEL],
}  # fmt: skip


def read(overflow: dict[str, Any], **more: Any) -> Settings:
    return parse({"models": ["simulated"], "overflow": overflow} | more, {})


def problem(overflow: dict[str, Any], **more: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        read(overflow, **more)
    [told] = refused.value.problems
    return told


def test_nothing_leaves_without_a_provider() -> None:
    assert parse({}, {}).overflow.providers == ()


def test_key_of_a_provider_does_not_print() -> None:
    assert "sk-unprinted" not in repr(read({"providers": [PROVIDER]}))


@pytest.mark.parametrize(
    ("overflow", "words"),
    [
        ({"providers": [PROVIDER, PROVIDER]}, "stands twice"),
        ({"max_wait_s": 1, "resume_wait_s": 2}, "resume_wait_s is at most max_wait_s"),
        ({"max_wate_s": 1}, "did you mean 'max_wait_s'?"),
        ({"triggers": ["boredom"]}, "overflow.triggers"),
        ({"providers": [PROVIDER], "per_key": {"k": {"providers": ["near"]}}}, "'near'"),
        ({"providers": [PROVIDER | {"kind": "azure"}]}, "needs base_url"),
        ({"providers": [PROVIDER | {"api_version": "2026"}]}, "api_version is Azure's"),
        ({"providers": [PROVIDER | {"base_url": "http://far.example"}]}, "begins with https"),
        ({"providers": [PROVIDER | {"base_url": "far.example/v1"}]}, "has a host"),
        ({"providers": [PROVIDER | {"models": []}]}, "at least 1"),
        (
            {"providers": [PROVIDER | {"models": [MODEL | {"stands_in_for": ["simulatd"]}]}]},
            "did you mean 'simulated'?",
        ),
    ],
)
def test_mistake_is_told(overflow: dict[str, Any], words: str) -> None:
    assert words in problem(overflow)


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ({"actions": {"PERSONS": "mask"}}, "privacy.actions"),
        ({"actions": {"PERSON": "hide"}}, "privacy.actions"),
        ({"patterns": {"ticket": "["}}, "no regular expression"),
        ({"patterns": {"any": ".*"}}, "matches the empty text"),
        ({"words": {"odd": ["--"]}}, "neither letter nor digit"),
        ({"allow_languages": ["German"]}, "did you mean 'de'?"),
        ({"allow_languages": ["zz"]}, "'zz' is no code of a language"),
        ({"allow_languages": "de"}, "privacy.allow_languages"),
    ],
)
def test_mistake_in_what_is_personal_is_told(privacy: dict[str, Any], words: str) -> None:
    assert words in problem({}, privacy=privacy)
