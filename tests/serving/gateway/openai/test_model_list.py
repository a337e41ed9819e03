"""`/v1/models`: only the models that a key may use."""

from __future__ import annotations

import pytest

from tests.serving.conftest import Backend, Keys


async def test_models_are_listed_in_the_order_of_the_configuration(backend: Backend) -> None:
    answer = (await backend.client.get("/v1/models")).json()
    assert answer["object"] == "list"
    assert [card["id"] for card in answer["data"]] == ["chat", "other", "embed"]


async def test_model_card_has_openai_s_fields_and_says_what_is_simulated(backend: Backend) -> None:
    card = (await backend.client.get("/v1/models/chat")).json()
    assert isinstance(card.pop("created"), int)
    assert card == {
        "id": "chat", "object": "model", "owned_by": "ringfence-simulated", "task": "generate",
        "max_model_len": 1000, "simulated": True,
    }  # fmt: skip


async def test_model_card_of_a_real_model_does_not_say_simulated(backend: Backend) -> None:
    card = (await backend.client.get("/v1/models/embed")).json()
    assert card["owned_by"] == "ringfence"
    assert "simulated" not in card


async def test_limited_key_sees_its_models_only(backend: Backend, keys: Keys) -> None:
    headers = {"authorization": f"Bearer {keys.limited}"}
    answer = await backend.client.get("/v1/models", headers=headers)
    assert [card["id"] for card in answer.json()["data"]] == ["other", "embed"]


@pytest.mark.parametrize("model", ["chat", "nope", "org/name", "a%2Fb", "chat%00"])
async def test_model_that_a_key_may_not_use_is_not_found(
    backend: Backend, keys: Keys, model: str
) -> None:
    headers = {"authorization": f"Bearer {keys.limited}"}
    answer = await backend.client.get(f"/v1/models/{model}", headers=headers)
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error", "model_not_found", "model",
    )  # fmt: skip


async def test_admin_key_lists_no_models(backend: Backend, keys: Keys) -> None:
    headers = {"authorization": f"Bearer {keys.admin}"}
    assert (await backend.client.get("/v1/models", headers=headers)).status_code == 403
