"""What the API reference is made from is what the gateway does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from openai.types import FileObject, Model, VectorStore, VectorStoreSearchResponse
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.vector_store_create_params import VectorStoreCreateParams
from openai.types.vector_store_search_params import VectorStoreSearchParams
from openai.types.vector_store_update_params import VectorStoreUpdateParams
from openai.types.vector_stores.file_batch_create_params import FileBatchCreateParams
from openai.types.vector_stores.file_create_params import FileCreateParams
from openai.types.vector_stores.file_update_params import FileUpdateParams
from pydantic import BaseModel

from serving.accounting.usage import AttemptRecord
from serving.answering.explanations import Considered, Decision, Explanation
from serving.gateway.openai import model_list, tokens
from serving.gateway.openai import request_explanations as requests
from serving.gateway.wire import objects
from serving.gateway.wire.file_fields import FIELDS
from tests.api_reference import ANSWERS, FORM
from tests.openapi import BODIES, WITHOUT_BODY, Anything, application, document, routes

VALID: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "prompt": "Hi",
    "input": "Hi",
    "tokens": [1],
    "query": "Hi",
    "file_id": "file-1",
    "attributes": {},
    "file_ids": ["file-1"],
}
"""Fields that some bodies require, or require one of."""

WRONG: list[list[object]] = [[]]
"""A value that no field takes."""

OPENAI: dict[str, type] = {
    "/v1/chat/completions": CompletionCreateParamsBase,
    "/v1/completions": TextParams,
    "/v1/embeddings": EmbeddingCreateParams,
    "/v1/vector_stores": VectorStoreCreateParams,
    "/v1/vector_stores/{store_id}": VectorStoreUpdateParams,
    "/v1/vector_stores/{store_id}/search": VectorStoreSearchParams,
    "/v1/vector_stores/{store_id}/files": FileCreateParams,
    "/v1/vector_stores/{store_id}/files/{file_id}": FileUpdateParams,
    "/v1/vector_stores/{store_id}/file_batches": FileBatchCreateParams,
}
"""What OpenAI's own client sends to a path; the others are none of OpenAI's."""


def test_every_route_is_in_the_document() -> None:
    paths = document()["paths"]
    described = {(method.upper(), path) for path, route in paths.items() for method in route}
    served = {
        (method, route.path.replace(":path", ""))
        for route in routes()
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert described == served


def test_every_post_of_json_has_its_body_in_the_document() -> None:
    posted = {
        route.path
        for route in routes()
        if "POST" in (route.methods or ()) and not route.path.startswith("/admin")
    }
    assert posted - WITHOUT_BODY - {"/v1/files"} == set(BODIES)


@pytest.mark.parametrize("path", BODIES)
async def test_route_reads_the_body_that_the_document_says(path: str) -> None:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        fields = BODIES[path].model_fields
        for name in fields:
            body = {key: value for key, value in VALID.items() if key in fields} | {name: WRONG}
            if name in ("prompt", "messages") and path == "/tokenize":
                body = {"model": "m", name: WRONG}
            answer = await client.post(path.replace("{", "").replace("}", ""), json=body)
            param = answer.json()["error"]["param"]
            assert (answer.status_code, param.split("[")[0].split(".")[0]) == (400, name)


@pytest.mark.parametrize("path", BODIES)
def test_every_field_that_openai_does_not_have_is_described(path: str) -> None:
    openai = OPENAI[path].__annotations__.keys() if path in OPENAI else set[str]()
    fields = BODIES[path].model_fields
    undescribed = {name for name, field in fields.items() if field.description is None}
    assert undescribed <= openai | {"model", "stream"}


@pytest.mark.parametrize(
    ("path", "show", "openai"),
    [
        ("/v1/files", objects.file_object, FileObject),
        ("/v1/vector_stores", objects.store_object, VectorStore),
        ("/v1/models", lambda spec: model_list._card(spec, 1), Model),
        (
            "/v1/vector_stores/{store_id}/search",
            lambda passage: {f"data[].{name}": 0 for name in objects._result(passage)},
            VectorStoreSearchResponse,
        ),
        ("/v1/requests/{request_id}", lambda _: explained(), BaseModel),
        ("/tokenize", tokens._told, BaseModel),
    ],
)
def test_every_field_of_ours_in_an_answer_is_described(
    path: str, show: Any, openai: type[BaseModel]
) -> None:
    known = {f"data[].{name}" for name in openai.model_fields} | set(openai.model_fields)
    assert set(show(Anything())) - known == set(ANSWERS[path])


def explained() -> set[str]:
    """Names in the explanation of a request, those of its lists with their list."""
    attempt = AttemptRecord("", "", "", "", datetime.now(UTC), None, 0.0, 0, 0, 0, 0, None)
    decision = Decision("open", None, [Considered("", None)])
    told = requests._told("r", Explanation(decision, [attempt]), "USD")
    lists = {name for name, value in told.items() if isinstance(value, list)}
    inner = {f"{name}[].{field}" for name in lists for field in told[name][0]}
    return set(told) - lists | inner


def test_every_field_of_the_form_is_described() -> None:
    assert {name.split("[")[0] for name in FIELDS} | {"file"} == set(FORM)
