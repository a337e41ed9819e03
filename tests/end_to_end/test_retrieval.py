"""A document in the whole backend: uploaded, indexed, found, and cited in a chat."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.end_to_end.backend import EXACT_MODEL, Backend
from tests.rag.parsing.sample_files import pdf

pytestmark = pytest.mark.engine

PAGES = [
    "The harbour of Lindholm opens at six in the morning and closes at nine in the evening. " * 5,
    "The lighthouse keeper is called Astrid Falk and she paints the tower white in May. " * 5,
]
SMALL = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
QUESTION = "Who keeps the lighthouse?"


@pytest.fixture
def sdk(backend: Backend) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{backend.url}/v1", api_key=backend.key, max_retries=0) as client:
        yield client


def test_uploaded_document_is_found_by_its_page_and_cited_by_a_chat(
    sdk: OpenAI, http: httpx.Client
) -> None:
    assert http.get("/ready").json()["retrieval"] == {"state": "ready", "reason": None}
    store = sdk.vector_stores.create(name="lindholm")
    file = sdk.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("lindholm.pdf", pdf(PAGES)),
        chunking_strategy=SMALL,  # type: ignore[arg-type]
        poll_interval_ms=100,
    )
    assert file.status == "completed", file.last_error
    best = sdk.vector_stores.search(store.id, query=QUESTION).data[0]
    assert (best.filename, best.model_dump()["page"]) == ("lindholm.pdf", 2)
    answer = sdk.chat.completions.create(
        model=EXACT_MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=32,
        extra_body={"file_search": {"vector_store_ids": [store.id], "max_num_results": 2}},
    )
    message = answer.choices[0].message
    assert message.content
    cited = [one.model_dump() for one in message.annotations or []]
    assert {one["file_id"] for one in cited} == {file.id}
    assert cited[0]["page"] == 2
    sdk.vector_stores.delete(store.id)
    sdk.files.delete(file.id)
