"""What is written by `make tree`: the tree in ARCHITECTURE.md and the schema of ringfence.yaml."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from serving.config import json_schema

ROOT = Path(__file__).parents[1]
PACKAGES = ("serving", "models", "rag", "benchmarks")
SCHEMA = ROOT / "deploy" / "ringfence.schema.json"
BEGIN, END = "<!-- tree -->\n", "<!-- end of tree -->\n"


def first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return text.split("\n", 1)[0]


def tree() -> str:
    """One line a module: its path and what it says of itself."""
    lines = []
    for package in PACKAGES:
        for module in sorted((ROOT / package).rglob("*.py")):
            path = module.relative_to(ROOT)
            if path.name == "__init__.py":
                lines.append(f"{path.parent}/".ljust(38) + first_line(module))
            elif "versions" not in path.parts:
                lines.append(f"  {path.name}".ljust(38) + first_line(module))
    return "```\n" + "\n".join(lines) + "\n```\n"


def written() -> str:
    """The tree that ARCHITECTURE.md has now."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    return text.split(BEGIN, 1)[1].split(END, 1)[0]


def schema() -> str:
    """The JSON Schema of ringfence.yaml, as an editor reads it."""
    return json.dumps(json_schema(), indent=2) + "\n"


def write() -> None:
    """Write both."""
    SCHEMA.write_text(schema(), "utf-8")
    path = ROOT / "ARCHITECTURE.md"
    before, rest = path.read_text("utf-8").split(BEGIN, 1)
    path.write_text(before + BEGIN + tree() + END + rest.split(END, 1)[1], "utf-8")


if __name__ == "__main__":
    write()
