import pytest

from serving.storage.database import Database
from tests.rag.chroma_server import chroma_url
from tests.rag.library import Place
from tests.serving.storage.databases import database, database_url, empty_url, postgres_url

__all__ = ["chroma_url", "database", "database_url", "empty_url", "postgres_url"]


@pytest.fixture
async def place(database: Database) -> Place:
    """A library without files."""
    return await Place.open(database)
