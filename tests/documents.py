"""What `make tree` writes: ARCHITECTURE's tree, the schema of ringfence.yaml and docs/api.md."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

from serving.config import json_schema
from tests.api_reference import reference
from tests.openapi import document

ROOT = Path(__file__).parents[1]
PACKAGES = ("serving", "models", "rag", "benchmarks")
SCHEMA = ROOT / "deploy" / "ringfence.schema.json"
API = ROOT / "docs" / "api.md"
BEGIN, END = "<!-- tree -->\n", "<!-- end of tree -->\n"


def first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return text.split("\n", 1)[0]


def tree() -> str:
    """Return the first line of each folder's docstring."""
    lines = [
        f"{_name(path.parent)}/".ljust(38) + first_line(path)
        for name in PACKAGES
        for path in sorted((ROOT / name).rglob("__init__.py"), key=lambda path: path.parent)
    ]
    return "```\n" + "\n".join(lines) + "\n```\n"


def modules() -> str:
    """Return the first line of each module's docstring, below its folder."""
    paths = (path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")))
    return "\n".join(
        _name(path).ljust(54) + first_line(path)
        for path in paths
        if path.name != "__init__.py" and path.parent.name != "versions"
    )


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def written() -> str:
    """Return the tree that ARCHITECTURE.md has now."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    return text.split(BEGIN, 1)[1].split(END, 1)[0]


def schema() -> str:
    """Return the JSON Schema of ringfence.yaml for editors."""
    return json.dumps(json_schema(), indent=2) + "\n"


def api() -> str:
    """The API reference."""
    return reference(document())


def write() -> None:
    """Write the tree, the schema and the API reference into their files."""
    SCHEMA.write_text(schema(), "utf-8")
    API.write_text(api(), "utf-8")
    path = ROOT / "ARCHITECTURE.md"
    before, rest = path.read_text("utf-8").split(BEGIN, 1)
    path.write_text(before + BEGIN + tree() + END + rest.split(END, 1)[1], "utf-8")


if __name__ == "__main__":
    write()
    sys.stdout.write(modules() + "\n")
