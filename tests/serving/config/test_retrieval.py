"""Settings of files and retrieval: default models, and invalid combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.config import ConfigError, parse
from serving.domain.model_state import RETRIEVAL
from serving.knowledge.curation import KNOWLEDGE

MINILM = "all-minilm-l6-v2"
EMBEDDERS: list[Any] = [{"base": MINILM, "id": "second"}, MINILM]
RERANKER = {"id": "rr", "task": "rerank", "engine": "sentence-transformers", "source": "/models/rr"}


def settings(**raw: Any) -> Any:
    return parse(raw, {"RINGFENCE_HOME": "/state"})


def test_first_model_that_embeds_is_for_new_stores_unless_another_is_named() -> None:
    assert settings(models=EMBEDDERS).embedder == "second"
    assert settings(models=EMBEDDERS, retrieval={"embedder": MINILM}).embedder == MINILM


def test_without_a_model_that_embeds_there_is_no_retrieval() -> None:
    assert settings(models=["smollm2-135m-instruct"]).embedder is None


def test_reranker_is_the_one_that_is_served_or_none() -> None:
    assert settings(models=[MINILM]).reranker is None
    assert settings(models=[MINILM, RERANKER]).reranker == "rr"


@pytest.mark.parametrize(
    ("retrieval", "problem"),
    [
        ({"embedder": "all-minilm"}, "no model 'all-minilm' is served to embed; did you mean"),
        ({"reranker": MINILM}, "no model 'all-minilm-l6-v2' is served to rerank"),
        ({"replicas": 2}, "replicas above 1 need chroma_url"),
        ({"chroma_url": "chroma:8000"}, "must be http://host:port or https://host:port"),
        ({"parsing": {"memory_bytes": 1}}, "retrieval.parsing.memory_bytes"),
        ({"drift": {"psi": 1}}, "retrieval.drift.psi: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_told(retrieval: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(models=[MINILM], retrieval=retrieval)
    assert problem in str(raised.value)


def test_several_replicas_share_a_chroma_server() -> None:
    retrieval = {"replicas": 2, "chroma_url": "http://chroma:8000", "chroma_token": "t0p"}
    made = settings(models=[MINILM], retrieval=retrieval)
    assert made.retrieval.replicas == 2
    assert "t0p" not in repr(made)


def test_files_are_in_the_state_directory_unless_a_url_is_given() -> None:
    assert Path(settings().files_url) == Path("/state/files")
    assert settings(files={"url": "s3://bucket/files"}).files_url == "s3://bucket/files"


def test_state_of_retrieval_has_a_name_that_no_model_can_have() -> None:
    with pytest.raises(ConfigError):
        settings(models=[{"base": MINILM, "id": RETRIEVAL}])
    assert KNOWLEDGE != RETRIEVAL
