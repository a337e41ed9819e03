from tests.serving.knowledge.backend import backend, home
from tests.serving.storage.databases import migrated_url, postgres_url

__all__ = ["backend", "home", "migrated_url", "postgres_url"]
