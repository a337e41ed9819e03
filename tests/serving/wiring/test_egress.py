"""Overflow as configured: which provider serves which model, and how."""

from __future__ import annotations

from typing import Any

import pytest

from serving.config import Settings, parse
from serving.egress.policy.overflow_decision import OverflowPolicies
from serving.egress.providers.anthropic_provider import AnthropicProvider
from serving.egress.providers.openai_provider import OpenAIProvider
from serving.wiring.egress import _provider, _stand_ins

MODELS: list[dict[str, Any]] = [
    {"id": "a", "base": "simulated"}, {"id": "b", "base": "simulated"},
]  # fmt: skip


def settings(*providers: dict[str, Any], **overflow: Any) -> Settings:
    return parse({"models": MODELS, "overflow": {"providers": list(providers)} | overflow}, {})


def provider(name: str, *models: str, kind: str = "openai", **fields: Any) -> dict[str, Any]:
    served = {"model": f"{name}-large", "stands_in_for": list(models), "context_tokens": 4096}
    return {"name": name, "kind": kind, "api_key": "sk-x", "models": [served]} | fields


@pytest.mark.parametrize(
    ("kind", "fields", "client"),
    [
        ("openai", {}, OpenAIProvider),
        ("openai", {"base_url": "https://near.example/v1"}, OpenAIProvider),
        ("azure", {"base_url": "https://us.openai.azure.com"}, OpenAIProvider),
        ("azure", {"base_url": "https://us.openai.azure.com", "api_version": "1"}, OpenAIProvider),
        ("anthropic", {}, AnthropicProvider),
    ],
)
def test_each_kind_has_its_client(kind: str, fields: dict[str, Any], client: type) -> None:
    [told] = settings(provider("p", "a", kind=kind, **fields)).overflow.providers
    assert isinstance(_provider(told), client)


def test_stand_ins_of_a_model_are_in_the_order_of_the_configuration() -> None:
    read = settings(provider("one", "a"), provider("two", "b", "a"))
    clients = {one.name: _provider(one) for one in read.overflow.providers}
    found = _stand_ins(read.overflow.providers, clients)
    assert {model: [one.provider_model.name for one in found[model]] for model in found} == {
        "a": ["one", "two"],
        "b": ["two"],
    }


def test_key_and_model_narrow_what_may_leave() -> None:
    read = settings(
        provider("one", "a"),
        provider("two", "a"),
        per_model={"a": {"max_share": 0.1}},
        per_key={"k1": {"providers": ["two"], "max_share": 0.9}, "k2": {"enabled": False}},
    )
    policies = OverflowPolicies(read.overflow)
    narrow = policies.of("a", "k1")
    assert (narrow.providers, narrow.max_share) == (("two",), 0.1)
    assert not policies.of("a", "k2").enabled
    assert policies.of("a", "k3").providers == ("one", "two")
