"""Conversations grounded in documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from models.engine import Kind
from models.tokens.token_counter import TokenCounter
from rag.search.passages import Passage
from serving.domain.calls import GenerationCall, RequestOptions
from serving.domain.principal import Principal
from serving.domain.privacy_class import PrivacyClass
from serving.domain.search_call import FileSearch, RetrievedPassages, SearchCall
from serving.retrieval.grounding import Grounding, Searches
from tests.rag.passage import passage
from tests.serving.virtual_time import run

QUESTION = "What do wings do?"
ASKED = FileSearch(["vs_1"], limit=3)


class Documents(Searches):
    """Returns given passages for any question."""

    def __init__(self, *passages: Passage, takes_s: float = 0.0) -> None:
        self.passages = passages
        self.takes_s = takes_s
        self.calls: list[SearchCall] = []

    async def search(self, call: SearchCall) -> RetrievedPassages:
        self.calls.append(call)
        await asyncio.sleep(self.takes_s)
        return RetrievedPassages(self.passages, call.queries)


class WordCounter(TokenCounter):
    """A token for every word."""

    def __init__(self, context_tokens: int | None) -> None:
        self._context_tokens = context_tokens

    @property
    def context_tokens(self) -> int | None:
        return self._context_tokens

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int:
        assert kind == "chat"
        return sum(len(message["content"].split()) for message in body["messages"])

    async def count_texts(self, inputs: Any) -> int:
        return sum(len(text.split()) for text in inputs)


def call(*messages: tuple[str, str], privacy: PrivacyClass = "open", **body: Any) -> GenerationCall:
    said = [{"role": role, "content": content} for role, content in messages]
    return GenerationCall(
        request_id="r1",
        principal=Principal("acme", "k1", "ci", "inference", None, "open"),
        model="chat",
        kind="chat",
        body={"messages": said or [{"role": "user", "content": QUESTION}]} | body,
        stream=False,
        privacy=privacy,
    )


def grounding(documents: Documents, context_tokens: int | None = 4096) -> Grounding:
    return Grounding(documents, {"chat": WordCounter(context_tokens)})


async def test_passages_are_in_the_prompt_and_told_as_sources() -> None:
    documents = Documents(passage(1), passage(2, "Tails steer."))
    grounded = await grounding(documents).ground(call(), ASKED)
    prompt = grounded.call.body["messages"][-1]["content"]
    assert "Wings lift." in prompt
    assert prompt.endswith(QUESTION)
    told = [one["file_id"] for one in grounded.sources["annotations"]]
    assert told == ["file-1", "file-2"]
    assert grounded.sources["file_search_call"] == {"queries": [QUESTION], "results": None}


async def test_passages_themselves_are_told_on_request() -> None:
    asked = replace(ASKED, with_results=True)
    grounded = await grounding(Documents(passage(1))).ground(call(), asked)
    (result,) = grounded.sources["file_search_call"]["results"]
    assert (result["file_id"], result["text"], result["page"]) == ("file-1", "Wings lift.", 3)


async def test_last_question_of_the_user_is_looked_for() -> None:
    documents = Documents()
    said = call(("user", "Hello"), ("user", "Why?"), ("assistant", "Because."))
    grounded = await grounding(documents).ground(said, ASKED)
    assert [one.queries for one in documents.calls] == [["Why?"]]
    assert grounded.call.body == said.body


async def test_question_is_the_last_one_that_has_text() -> None:
    documents = Documents()
    await grounding(documents).ground(call(("user", "Why?"), ("user", " ")), ASKED)
    assert [one.queries for one in documents.calls] == [["Why?"]]


def test_answer_has_the_time_that_the_search_left() -> None:
    said = replace(call(), options=RequestOptions(timeout_s=5.0))
    grounded = run(grounding(Documents(passage(1), takes_s=2.0)).ground(said, ASKED))
    assert grounded.call.options.timeout_s == 3.0


async def test_nothing_is_looked_for_where_nobody_asks() -> None:
    documents = Documents(passage(1))
    said = call(("system", "Be brief."), ("user", " "))
    grounded = await grounding(documents).ground(said, ASKED)
    assert (documents.calls, grounded.call.body) == ([], said.body)


@pytest.mark.parametrize(
    ("own", "of_file", "risen"),
    [
        ("open", "scrubbed", "scrubbed"),
        ("open", "local_only", "local_only"),
        ("scrubbed", "open", "scrubbed"),
        ("local_only", "open", "local_only"),
    ],
)
async def test_class_rises_to_that_of_every_passage_in_the_prompt(
    own: PrivacyClass, of_file: PrivacyClass, risen: PrivacyClass
) -> None:
    passages = replace(passage(1), privacy="open"), replace(passage(2), privacy=of_file)
    grounded = await grounding(Documents(*passages)).ground(call(privacy=own), ASKED)
    assert grounded.call.privacy == risen


async def test_passage_that_is_left_out_does_not_raise_the_class() -> None:
    first = replace(passage(1), privacy="open")
    second = replace(passage(2, "word " * 300), privacy="local_only")
    grounded = await grounding(Documents(first, second), 200).ground(call(), ASKED)
    assert [one["file_id"] for one in grounded.sources["annotations"]] == ["file-1"]
    assert grounded.call.privacy == "open"


async def test_prompt_leaves_the_answer_its_room() -> None:
    documents = Documents(*(passage(i, "word " * 30) for i in range(1, 9)))
    grounded = await grounding(documents, 400).ground(call(max_tokens=200), ASKED)
    counted = await WordCounter(400).count("chat", grounded.call.body)
    assert 100 < counted <= 200
    assert 0 < len(grounded.sources["annotations"]) < 8
