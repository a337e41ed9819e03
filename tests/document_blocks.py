"""Fenced code blocks of the documents, and the commands in them.

Each is run by `tests/end_to_end/test_document_commands.py`, or named here with the reason why not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

NOT_RUN = {
    "make serve": "it sets the environment up; the session's server is what it starts",
    "make test": "it is what runs this",
    "git clone": "it needs the address of a repository",
    "ringfence bench": "it measures for minutes; tests/benchmarks/deployment runs it briefly",
    "curl ...": "it is one option of a command that another block has",
}
"""By how a command begins: why it does not run here."""

RUN = ("curl http", "curl -N http", "ringfence ")
"""How commands begin that run against the session's server."""

LANGUAGES = ("", "python", "js", "yaml", "json")

_BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"(?:^| {2,})#.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `name` says which, as `docs/start.md:2`."""

    name: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """The commands of a block of shell, without comments; continued lines are joined."""
        text = _COMMENT.sub("", self.text).replace("\\\n", " ")
        commands = list[str]()
        for line in text.splitlines():
            if commands and commands[-1].count("'") % 2:
                commands[-1] += "\n" + line
            elif line.strip():
                commands.append(line.strip())
        return commands


def blocks() -> Iterator[Block]:
    """Every fenced block, in order."""
    for path in DOCUMENTS:
        found = _BLOCK.finditer(path.read_text("utf-8"))
        for number, match in enumerate(found, 1):
            name = f"{path.relative_to(ROOT)}:{number}"
            yield Block(name, match[2].strip(), match[3])


def why_not_run(command: str) -> str | None:
    """The reason for which a command is not run; None if it is."""
    return next((why for begin, why in NOT_RUN.items() if command.startswith(begin)), None)
