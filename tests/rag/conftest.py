from tests.rag.chroma_server import chroma_url
from tests.serving.storage.databases import database, database_url, empty_url, postgres_url

__all__ = ["chroma_url", "database", "database_url", "empty_url", "postgres_url"]
