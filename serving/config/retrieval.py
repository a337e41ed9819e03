"""Settings of files and of retrieval from them: groups of `ringfence.yaml`."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from serving.config.group import Group


class FileSettings(Group):
    """Files that clients upload. Times in seconds, sizes in bytes."""

    url: str | None = Field(
        None, description="Where bytes are: any fsspec URL; default: the state directory."
    )
    max_bytes: int = Field(512 * 1024 * 1024, ge=1024, description="Of one file.")
    upload_timeout_s: float = Field(600.0, gt=0, description="For a file to arrive.")
    idle_timeout_s: float = Field(15.0, gt=0, description="Between two pieces of it.")


class ParsingSettings(Group):
    """How documents are parsed: in separate processes, which are replaced if they fail."""

    processes: int = Field(1, ge=1, description="Files that are read at a time.")
    timeout_s: float = Field(120.0, gt=0, description="For one file.")
    memory_bytes: int = Field(2 * 1024**3, ge=512 * 1024**2, description="Of one process.")


class DriftSettings(Group):
    """When drift is reported, and which values raise an alarm. A share is 0 to 1."""

    interval_s: float = Field(86_400.0, gt=0, description="Between reports of searched stores.")
    canary_cosine: float = Field(0.999, ge=-1, le=1, description="Another embedder below it.")
    stability_index: float = Field(0.25, gt=0, description="Of recent queries against earlier.")
    centroid_shift: float = Field(0.1, gt=0, description="Of the same, squared distance.")
    low_share: float = Field(0.15, gt=0, le=1, description="More searches that find little.")
    stale_share: float = Field(0.9, gt=0, le=1, description="Of files older than stale_days.")
    stale_days: int = Field(365, ge=1)
    least_queries: int = Field(100, ge=10, description="Of each side, for a measure at all.")
    reembed: bool = Field(
        default=False, description="Re-embed a store by itself when its embedder has changed."
    )


class RetrievalSettings(Group):
    """Vector stores and search. There is none unless an embedding model is served."""

    embedder: str | None = Field(
        None, description="Of new vector stores; default: the first served model that embeds."
    )
    reranker: str | None = Field(
        None, description="Looks at the best again; default: the first served one, or none."
    )
    chroma_url: str | None = Field(
        None, description="A Chroma server (`chroma run`); default: Chroma inside Knowledge."
    )
    chroma_token: SecretStr | None = Field(None, description="For a proxy before it; `${ENV}`.")
    replicas: int = Field(1, ge=1, description="Of Knowledge; several need chroma_url.")
    search_timeout_s: float = Field(10.0, gt=0)
    max_store_files: int = Field(10_000, ge=1, description="In one vector store.")
    sweep_s: float = Field(3600.0, gt=0, description="Between looks for what nobody knows of.")
    parsing: ParsingSettings = ParsingSettings()
    drift: DriftSettings = DriftSettings()

    @field_validator("chroma_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise ValueError("must be http://host:port or https://host:port")
        return url

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if self.replicas > 1 and self.chroma_url is None:
            raise ValueError("replicas above 1 need chroma_url: one process owns embedded vectors")
        return self
