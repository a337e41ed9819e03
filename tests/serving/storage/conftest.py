from tests.serving.storage.databases import database, database_url, empty_url, postgres_url

__all__ = ["database", "database_url", "empty_url", "postgres_url"]
