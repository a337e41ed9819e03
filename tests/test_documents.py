from __future__ import annotations

from pathlib import Path

from tests.documents import ROOT, SCHEMA, schema, tree, written


def test_architecture_lists_every_module() -> None:
    assert tree() == written(), "run `make tree`"


def test_published_schema_is_the_one_of_this_version() -> None:
    assert schema() == SCHEMA.read_text("utf-8"), "run `make tree`"


def test_readme_names_only_tests_that_exist() -> None:
    words = (ROOT / "README.md").read_text("utf-8").replace("`", " ").split()
    named = {word.strip(".,;()|") for word in words if word.startswith("test_")}
    files = {name for name in named if name.endswith(".py")}
    assert {name for name in files if not list((ROOT / "tests").rglob(name))} == set()
    named -= files
    source = "".join(path.read_text("utf-8") for path in Path(ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in source} == set()
