"""The plan of a run of `ringfence ingest`: local files compared with those of a store.

What was done is told by the server: each file there has its source, its path and its hash as
attributes. So a run that was killed goes on where it was, and nothing is kept here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from serving.cli.clients.api import USAGE, CallFailed
from serving.cli.clients.documents import Attached
from serving.cli.ingest.walk import MAX_PATH, Trouble, is_utf8, walk

_MAX_NAME = 128

Rows: TypeAlias = Sequence[Attached]


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of files. A store identifies each file by its source and its path there.

    Attributes:
        name: the whole path of a folder or a file here, or what it is called instead.
        root: that folder or file.
        path: what the paths of its files begin with.
    """

    name: str
    root: Path
    path: str

    @classmethod
    def at(cls, path: Path, name: str | None) -> Source:
        """The source that a folder or a file is; `name` is what it is called instead of its path.

        Raises:
            CallFailed: a store cannot know it by that.
        """
        root = path.resolve()
        if name is None:
            if not is_utf8(str(root)) or len(str(root)) > MAX_PATH:
                raise CallFailed(
                    f"a path that is not valid UTF-8, or longer than {MAX_PATH} characters, "
                    "needs another name; give --source",
                    USAGE,
                )
            return cls(str(root), root, root.name)
        if not (0 < len(name) <= _MAX_NAME and name.isprintable() and "/" not in name):
            raise CallFailed(
                f"--source takes 1 to {_MAX_NAME} printable characters without a slash", USAGE
            )
        return cls(name, root, name if root.is_dir() else f"{name}/{root.name}")


@dataclass(frozen=True, slots=True)
class FileKey:
    """The identity of a file in a store, which may have several versions of it for a while."""

    source: str
    path: str

    @classmethod
    def of(cls, row: Attached) -> FileKey | None:
        """Return the identity of a file in a store; None if `ingest` did not put it there."""
        return cls(row.source, row.path) if row.source and row.path and row.sha256 else None


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Counts a source's files in a store. The source None has the files that others put there."""

    source: str | None
    files: int
    completed: int
    in_progress: int
    failed: int


class Contents:
    """The files of a store that `ingest` put there.

    Those of earlier versions have no source: they were known by the last part of its path, with
    which their own paths begin.

    Attributes:
        rows: by source and path.
        unclaimed: those without a source, by path.
    """

    def __init__(self, attached: Iterable[Attached]) -> None:
        self.rows: dict[FileKey, list[Attached]] = {}
        self.unclaimed: dict[str, list[Attached]] = {}
        self._foreign: list[Attached] = []
        for row in attached:
            if key := FileKey.of(row):
                self.rows.setdefault(key, []).append(row)
            elif row.source is None and row.path and row.sha256:
                self.unclaimed.setdefault(row.path, []).append(row)
            else:
                self._foreign.append(row)

    def claim(self, name: str) -> None:
        """Have the files without a source that were known by a name be of the source it names."""
        for path in [path for path in self.unclaimed if _top(path) == name]:
            self.rows.setdefault(FileKey(name, path), []).extend(self.unclaimed.pop(path))

    def unclaimed_of(self, name: str) -> int:
        """Count the files of that name that have no source."""
        return sum(len(rows) for path, rows in self.unclaimed.items() if _top(path) == name)

    def of(self, source: str) -> dict[FileKey, list[Attached]]:
        """Return the files of a source."""
        return {key: rows for key, rows in self.rows.items() if key.source == source}

    def counts(self) -> list[SourceCounts]:
        """Count the files of each source, by its name; last come those that others put there."""
        found: dict[str | None, Counter[str]] = {}
        sources = [(key.source, rows) for key, rows in self.rows.items()]
        sources += [(_top(path), rows) for path, rows in self.unclaimed.items()]
        for source, rows in (*sorted(sources, key=lambda one: one[0]), (None, self._foreign)):
            if rows:
                found.setdefault(source, Counter()).update(row.status for row in rows)
        return [
            SourceCounts(source, one.total(), one["completed"], one["in_progress"], one["failed"])
            for source, one in found.items()
        ]


@dataclass(frozen=True, slots=True)
class Job:
    """A local file, and its versions in the store.

    Attributes:
        key: what the store knows it by.
        file: where it is.
        rows: its versions.
        unclaimed: files of its path without a source; those that have its bytes are versions too.
    """

    key: FileKey
    file: Path
    rows: Rows
    unclaimed: Rows


@dataclass(frozen=True, slots=True)
class Removal:
    """Files of a source that are to leave the store, and how many it has of the source."""

    source: str
    gone: Mapping[FileKey, Rows]
    known: int

    @property
    def is_large(self) -> bool:
        """Whether that is more than half of them."""
        return 2 * len(self.gone) > self.known


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a run. `troubles` are the paths that it cannot take, with their sources."""

    jobs: Sequence[Job]
    troubles: Sequence[tuple[str, Trouble]]
    removals: Sequence[Removal]


def plan(
    contents: Contents, sources: Sequence[Source], *, exclude: Sequence[str], keep_deleted: bool
) -> Plan:
    """Compare sources with what a store has of them.

    Args:
        contents: of the store.
        sources: each with files of its own.
        exclude: shell patterns of names or paths to leave out.
        keep_deleted: whether what is gone here stays in the store.
    """
    jobs: dict[FileKey, Job] = {}
    troubles: list[tuple[str, Trouble]] = []
    removals: list[Removal] = []
    for source in sources:
        hiding: list[Trouble] = []
        for one in walk(source.root, source.path, exclude):
            if isinstance(one, Trouble):
                hiding.append(one)
                continue
            key = FileKey(source.name, one.path)
            unclaimed = contents.unclaimed.pop(one.path, ())
            jobs[key] = Job(key, one.file, contents.rows.get(key, ()), unclaimed)
        known = contents.of(source.name)
        gone = {
            key: rows
            for key, rows in known.items()
            if key not in jobs and not any(one.hides(key.path) for one in hiding)
        }
        troubles += [(source.name, one) for one in hiding]
        if gone and not keep_deleted:
            removals.append(Removal(source.name, gone, len(known)))
    return Plan(list(jobs.values()), troubles, removals)


def _top(path: str) -> str:
    """The first part of a path."""
    return path.partition("/")[0]
