from __future__ import annotations

import re
from pathlib import Path

from tests.document_blocks import LANGUAGES, NOT_RUN, RUN, blocks, why_not_run
from tests.documents import API, ROOT, SCHEMA, api, schema, tree, written


def test_architecture_lists_every_folder() -> None:
    assert tree() == written(), "run `make tree`"


def test_published_schema_is_the_one_of_this_version() -> None:
    assert schema() == SCHEMA.read_text("utf-8"), "run `make tree`"


def test_api_reference_is_the_one_of_this_version() -> None:
    assert api() == API.read_text("utf-8"), "run `make tree`"


def test_readme_names_only_tests_that_exist() -> None:
    words = (ROOT / "README.md").read_text("utf-8").replace("`", " ").split()
    named = {word.strip(".,;()|") for word in words if word.startswith("test_")}
    files = {name for name in named if name.endswith(".py")}
    assert {name for name in files if not list((ROOT / "tests").rglob(name))} == set()
    named -= files
    source = "".join(path.read_text("utf-8") for path in Path(ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in source} == set()


def test_every_decision_has_its_date_context_choice_and_cost() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        parts = re.findall(
            r"(?m)^# .|^Date: \d{4}-\d{2}-\d{2}$|^\*\*(\w+)\.\*\*", path.read_text("utf-8")
        )
        assert parts == ["", "", "Context", "Choice", "Cost"], path.name


def test_architecture_names_only_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|lua))`", text))
    places = (ROOT, ROOT / "serving")
    assert named
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "deploy" / "README.md"]


def test_documents_name_only_files_of_ours_that_exist() -> None:
    text = "".join(path.read_text("utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"\b(?:tests|serving|rag|models|benchmarks)/[\w/]+\.(?:py|lua)\b", text))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_links_in_documents_lead_to_files_that_exist() -> None:
    broken = set()
    for path in DOCUMENTS:
        links = re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8"))
        broken |= {(path.name, one) for one in links if not (path.parent / one).exists()}
    assert broken == set()


def test_guides_follow_each_other() -> None:
    first, *others = ("start", "models", "keys-and-limits", "documents", "overflow-and-privacy")
    read = ROOT / "docs" / f"{first}.md"
    for name in (*others, "operations", "api"):
        assert f"]({name}.md)" in read.read_text("utf-8").rstrip().rsplit("\n", 1)[-1], read
        read = ROOT / "docs" / f"{name}.md"


def test_every_block_of_the_documents_is_run_or_has_a_reason() -> None:
    assert {block.language for block in blocks()} <= set(LANGUAGES)
    commands = [one for block in blocks() if not block.language for one in block.commands()]
    unknown = {one for one in commands if why_not_run(one) is None and not one.startswith(RUN)}
    assert unknown == set()


def test_every_reason_for_which_a_command_is_not_run_is_needed() -> None:
    commands = [one for block in blocks() if not block.language for one in block.commands()]
    needed = {begin for begin in NOT_RUN for one in commands if one.startswith(begin)}
    assert needed == set(NOT_RUN)
