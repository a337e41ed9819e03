"""`ringfence ingest`: make a vector store hold what folders hold, over the public API.

What was done is told by the server: each file there has its path and hash as attributes. So a run
that was killed goes on where it was, and nothing is kept here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serving import config as configuration
from serving.cli import rows
from serving.cli.api_client import FAILED, USAGE, CallFailed
from serving.cli.ingest_walk import Found, below, walk
from serving.cli.library_client import Attached, LibraryClient
from serving.cli.options import ConfigOption, JsonOption
from serving.cli.progress import console
from serving.config import ConfigError

_AT_ONCE = 4
_MOST_PATH = 512  # Characters of an attribute.

Done = Literal["added", "updated", "unchanged", "removed", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    path: str
    done: Done
    reason: str | None = None


def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", exists=True)],
    *,
    store: Annotated[str, typer.Option(help="Name of the vector store; made if missing.")],
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Names or paths to leave out.")
    ] = None,
    access: Annotated[
        list[str] | None,
        typer.Option(metavar="ENTRY", help="Who may read: tenant, group:NAME or user:NAME."),
    ] = None,
    privacy: Annotated[
        str | None, typer.Option(metavar="CLASS", help="local_only, scrubbed or open.")
    ] = None,
    keep_deleted: Annotated[
        bool, typer.Option("--keep-deleted", help="Keep what is gone here.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: Annotated[str | None, typer.Option(help="Base URL, if not this machine's.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="RINGFENCE_API_KEY", help="API key.", show_envvar=True)
    ] = None,
) -> None:
    """Bring a vector store up to date with files and folders; exit code 1 if a file failed."""
    fields = {"privacy": privacy, "access": json.dumps(access) if access else None}
    with _library(config, url=url, key=key) as client:
        roots = _roots(paths)
        found = {one.path: one for root in roots for one in walk(root, exclude or ())}
        run = _Ingestion(
            client, client.store(store), {name: text for name, text in fields.items() if text}
        )
        outcomes = run.update(found, gone_below=() if keep_deleted else roots)
    _tell(outcomes, as_json=as_json)
    if any(outcome.done == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


class _Ingestion:
    """One run against one vector store."""

    def __init__(self, client: LibraryClient, store: str, fields: dict[str, str]) -> None:
        self._client = client
        self._store = store
        self._fields = fields
        self._there: dict[str, list[Attached]] = {}
        for attached in client.attached(store):
            if attached.path is not None:
                self._there.setdefault(attached.path, []).append(attached)

    def update(self, found: dict[str, Found], *, gone_below: Sequence[Path]) -> list[Outcome]:
        """Bring all up to date; outcomes are in the order of their paths."""
        gone = [
            path
            for path in self._there
            if path not in found and any(below(path, root) for root in gone_below)
        ]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        outcomes: list[Outcome] = []
        with (
            Progress(
                *columns, TimeElapsedColumn(), console=console, disable=not sys.stderr.isatty()
            ) as bars,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            total = bars.add_task("total", total=len(found) + len(gone))
            jobs: list[Future[Outcome]] = [
                *(pool.submit(self._file, one, bars) for one in found.values()),
                *(pool.submit(self._remove, path) for path in gone),
            ]
            try:
                for job in as_completed(jobs):
                    outcomes.append(job.result())
                    bars.advance(total)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # What runs ends; no more begins.
        return sorted(outcomes, key=lambda outcome: outcome.path)

    def _file(self, one: Found, bars: Progress) -> Outcome:
        task = bars.add_task(one.path, total=2)
        try:
            return self._brought(one, advance=lambda: bars.advance(task))
        except CallFailed as error:
            return Outcome(one.path, "failed", str(error))
        except OSError as error:
            return Outcome(one.path, "failed", error.strerror or type(error).__name__)
        finally:
            bars.remove_task(task)

    def _brought(self, one: Found, *, advance: Callable[[], None]) -> Outcome:
        if len(one.path) > _MOST_PATH:
            return Outcome(one.path, "failed", f"its path is longer than {_MOST_PATH} characters")
        sha256 = one.sha256()
        there = self._there.get(one.path, [])
        same = next((old for old in there if old.sha256 == sha256 and _good(old)), None)
        file_id = same.file_id if same else self._uploaded(one, sha256)
        advance()
        state = self._client.indexed(self._store, file_id)
        advance()
        if state.status != "completed":
            return Outcome(one.path, "failed", state.error or state.status)
        for old in there:
            if old.file_id != file_id:
                self._client.delete(old.file_id)
        if same:
            return Outcome(one.path, "unchanged")
        return Outcome(one.path, "updated" if there else "added")

    def _uploaded(self, one: Found, sha256: str) -> str:
        """Upload and attach; a file that cannot be attached does not stay."""
        with one.file.open("rb") as opened:
            file_id = self._client.upload(one.file.name, opened, self._fields)
        try:
            self._client.attach(self._store, file_id, {"path": one.path, "sha256": sha256})
        except CallFailed:
            self._client.delete(file_id)
            raise
        return file_id

    def _remove(self, path: str) -> Outcome:
        try:
            for old in self._there[path]:
                self._client.delete(old.file_id)
        except CallFailed as error:
            return Outcome(path, "failed", str(error))
        return Outcome(path, "removed")


def _good(attached: Attached) -> bool:
    return attached.status in ("completed", "in_progress")


def _roots(paths: Sequence[Path]) -> list[Path]:
    """Absolute paths. By their names files are known, so no two may have the same."""
    roots = [path.resolve() for path in paths]
    if len({root.name for root in roots}) < len(roots):
        raise CallFailed("two of the paths have the same name; ingest them one by one", USAGE)
    return roots


@contextmanager
def _library(config: Path | None, *, url: str | None, key: str | None) -> Iterator[LibraryClient]:
    """A client for the block; a known failure in it ends the program with one line."""
    try:
        client = LibraryClient.at(configuration.load(config), "/v1", url=url, key=key)
        try:
            yield client
        finally:
            client.close()
    except (CallFailed, ConfigError, OSError) as error:
        typer.echo("ringfence: " + "; ".join(str(error).splitlines()), err=True)
        raise typer.Exit(error.code if isinstance(error, CallFailed) else FAILED) from None


def _tell(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes]))
        return
    kinds: tuple[Done, ...] = ("added", "updated", "unchanged", "removed", "failed")
    counts = [(kind, sum(outcome.done == kind for outcome in outcomes)) for kind in kinds]
    typer.echo(", ".join(f"{count} {kind}" for kind, count in counts))
    failures = [asdict(outcome) for outcome in outcomes if outcome.done == "failed"]
    if failures:
        rows.show(failures, ("path", "reason"))
