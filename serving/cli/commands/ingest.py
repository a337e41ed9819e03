"""`ringfence ingest`: make a vector store hold what folders hold, over the public API."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, get_args

import typer

from serving import config as configuration
from serving.cli import rows
from serving.cli.clients.api import FAILED, USAGE, CallFailed
from serving.cli.clients.documents import DocumentsClient, Rights
from serving.cli.ingest.plan import Contents, Plan, Removal, Source, SourceCounts, plan
from serving.cli.ingest.run import Done, FileOutcome, IngestRun
from serving.cli.ingest.walk import is_utf8
from serving.cli.options import ConfigOption, JsonOption, KeyOption, UrlOption
from serving.config import ConfigError

StoreOption = Annotated[
    str, typer.Option(help="Name of the vector store, made if missing, or its id.")
]


def ingest(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", exists=True, readable=False)
    ] = None,
    *,
    store: StoreOption,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the PATH as a source.")
    ] = None,
    list_sources: Annotated[
        bool, typer.Option("--list", help="List the sources of the store, with counts.")
    ] = False,
    remove: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Remove all files of a source.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove more than half of a source unasked.")
    ] = False,
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
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Bring a vector store up to date with files and folders; exit code 1 if a file failed.

    Each PATH is a source, known by its whole path or by its --source NAME. Other sources of the
    store are left alone.
    """
    with _client(config, url=url, key=key) as client:
        _refuse_misused(paths, source, list_sources=list_sources, remove=remove)
        _refuse_unusable(store, *(access or ()), privacy, remove)
        if list_sources:
            _list(Contents(client.attached(client.known_store(store))), as_json=as_json)
            return
        if remove is not None:
            outcomes = _remove(client, client.known_store(store), remove, yes=yes)
        else:
            sources = list(dict.fromkeys(Source.at(path, source) for path in paths or ()))
            outcomes = _update(
                client, client.store(store), sources,
                exclude=exclude or (), keep_deleted=keep_deleted, yes=yes,
                rights=_rights(access, privacy),
            )  # fmt: skip
        _tell(outcomes, as_json=as_json)
    if any(outcome.done == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


def _refuse_misused(
    paths: Sequence[Path] | None, source: str | None, *, list_sources: bool, remove: str | None
) -> None:
    if [bool(paths), list_sources, remove is not None].count(True) != 1:
        raise CallFailed("give one of PATH..., --list and --remove", USAGE)
    if source is not None and len(paths or ()) != 1:
        raise CallFailed("--source is the name of one PATH", USAGE)


def _refuse_unusable(store: str, *others: str | None) -> None:
    if not store:
        raise CallFailed("--store takes the name of a vector store", USAGE)
    if not all(is_utf8(text) for text in (store, *others) if text is not None):
        raise CallFailed("an argument is not valid UTF-8", USAGE)


def _rights(access: list[str] | None, privacy: str | None) -> Rights:
    rights: dict[str, str | list[str]] = {}
    if access:
        rights["access"] = access
    if privacy:
        rights["privacy"] = privacy
    return rights


def _list(contents: Contents, *, as_json: bool) -> None:
    found = [asdict(one) for one in contents.counts()]
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows.show(found, [field.name for field in fields(SourceCounts)])


def _update(
    client: DocumentsClient,
    store: str,
    sources: Sequence[Source],
    *,
    exclude: Sequence[str],
    keep_deleted: bool,
    yes: bool,
    rights: Rights,
) -> list[FileOutcome]:
    contents = Contents(client.attached(store))
    for source in sources:
        contents.claim(source.name)
    of_earlier_versions = bool(contents.unclaimed)
    todo = plan(contents, sources, exclude=exclude, keep_deleted=keep_deleted)
    _agree(todo.removals, yes=yes)
    outcomes = IngestRun(client, store, rights).carry_out(todo)
    if of_earlier_versions:
        _tell_unclaimed(Contents(client.attached(store)), sources)
    return outcomes


def _remove(client: DocumentsClient, store: str, source: str, *, yes: bool) -> list[FileOutcome]:
    contents = Contents(client.attached(store))
    contents.claim(source)
    gone = contents.of(source)
    if not gone:
        raise CallFailed(f"the store has no source {source!r}; --list shows those that it has")
    removal = Removal(source, gone, len(gone))
    _agree([removal], yes=yes)
    return IngestRun(client, store, {}).carry_out(Plan((), (), [removal]))


def _agree(removals: Sequence[Removal], *, yes: bool) -> None:
    """Ask before more than half of a source is removed. Without a terminal, refuse."""
    for removal in removals:
        if yes or not removal.is_large:
            continue
        told = (
            f"{len(removal.gone)} of {removal.known} files of the source {removal.source!r} would "
            "be removed from the store"
        )
        if not sys.stdin.isatty():
            raise CallFailed(f"{told}, so nothing was done. Give --yes if that is meant.")
        if not typer.confirm(f"{told}. Remove them?", err=True):
            raise CallFailed("nothing was done")


def _tell_unclaimed(left: Contents, sources: Sequence[Source]) -> None:
    """Tell of files of earlier versions that may be of a source, and were left as they are."""
    for source in sources:
        if count := left.unclaimed_of(source.path):
            typer.echo(
                f"ringfence: the store has {count} files that an earlier version took from a "
                f"folder named {source.path!r}, perhaps another one: {source.name!r} has no such "
                f"files. They stay. --remove {shlex.quote(source.path)} removes them.",
                err=True,
            )


@contextmanager
def _client(config: Path | None, *, url: str | None, key: str | None) -> Iterator[DocumentsClient]:
    """A client for the block; a known failure in it ends the program with one line."""
    try:
        client = DocumentsClient.at(configuration.load(config), "/v1", url=url, key=key)
        try:
            yield client
        finally:
            client.close()
    except (CallFailed, ConfigError, OSError) as error:
        typer.echo("ringfence: " + "; ".join(str(error).splitlines()), err=True)
        raise typer.Exit(error.code if isinstance(error, CallFailed) else FAILED) from None


def _tell(outcomes: Sequence[FileOutcome], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes]))
        return
    counts = [(kind, sum(outcome.done == kind for outcome in outcomes)) for kind in get_args(Done)]
    typer.echo(", ".join(f"{count} {kind}" for kind, count in counts))
    failures = [asdict(outcome) for outcome in outcomes if outcome.done == "failed"]
    if failures:
        several = len({outcome.source for outcome in outcomes}) > 1
        rows.show(failures, ("source", "path", "reason") if several else ("path", "reason"))
