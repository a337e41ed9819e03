"""A run of `ringfence ingest` against one vector store: carries out what `ingest_plan` found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serving.cli.clients.api import CallFailed
from serving.cli.clients.documents import Attached, DocumentsClient, Rights
from serving.cli.ingest.plan import FileKey, Job, Plan, Rows
from serving.cli.ingest.reading import Reading, Unreadable, reading
from serving.cli.ingest.walk import shown
from serving.cli.progress import console

_AT_ONCE = 4

Done = Literal["added", "updated", "unchanged", "removed", "failed"]


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """The result for one file."""

    path: str
    done: Done
    reason: str | None
    source: str


class IngestRun:
    """A run against one vector store.

    Args:
        client: of the server.
        store: id of the vector store.
        rights: of what is uploaded.
    """

    def __init__(self, client: DocumentsClient, store: str, rights: Rights) -> None:
        self._client = client
        self._store = store
        self._rights = rights

    def carry_out(self, plan: Plan) -> list[FileOutcome]:
        """Carry out the plan. Files fail independently. Outcomes are in order of paths."""
        gone = {key: rows for removal in plan.removals for key, rows in removal.gone.items()}
        outcomes = [
            FileOutcome(shown(trouble.path), "failed", trouble.reason, source)
            for source, trouble in plan.troubles
        ]
        with _progress() as bars, ThreadPoolExecutor(_AT_ONCE) as pool:
            total = bars.add_task("total", total=len(plan.jobs) + len(gone))
            jobs: list[Future[FileOutcome]] = [
                *(pool.submit(self._file, job, bars) for job in plan.jobs),
                *(pool.submit(self._remove, key, rows) for key, rows in gone.items()),
            ]
            try:
                for job in as_completed(jobs):
                    outcomes.append(job.result())
                    bars.advance(total)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # What runs ends; no more begins.
        self._remove_doubles(
            {FileKey(one.source, one.path) for one in outcomes if one.done in ("added", "updated")}
        )
        return sorted(outcomes, key=lambda outcome: (outcome.path, outcome.source))

    def _file(self, job: Job, bars: Progress) -> FileOutcome:
        task = bars.add_task(job.key.path, total=2)
        try:
            done = self._brought(job, advance=lambda: bars.advance(task))
            return FileOutcome(job.key.path, done, None, job.key.source)
        except (CallFailed, Unreadable) as error:
            return FileOutcome(job.key.path, "failed", str(error), job.key.source)
        finally:
            bars.remove_task(task)

    def _brought(self, job: Job, *, advance: Callable[[], None]) -> Done:
        """Make the local version of a file the only one in the store. Raises if that fails."""
        with reading(job.file) as opened:
            sha256 = opened.sha256()
            versions = (*job.rows, *(row for row in job.unclaimed if row.sha256 == sha256))
            same = _same(versions, sha256)
            if same is None:
                file_id = self._uploaded(job, opened, sha256)
            else:
                file_id = same.file_id
                self._use(same, _attributes(job.key, sha256))
        advance()
        state = self._indexed(job.key, sha256, file_id)
        advance()
        if state.status != "completed":
            self._keep_one((*versions, state), _last_good(versions) or state)
            raise CallFailed(state.error or state.status)
        self._keep_one(versions, state)
        if same is not None and same.is_good:
            return "unchanged"
        return "updated" if versions else "added"

    def _uploaded(self, job: Job, opened: Reading, sha256: str) -> str:
        """Upload and attach; a file that cannot be attached does not stay."""
        file_id = self._client.upload(job.file.name, opened, self._rights)
        try:
            opened.check(sha256)
            self._client.attach(self._store, file_id, _attributes(job.key, sha256))
        except (CallFailed, Unreadable):
            with suppress(CallFailed):  # The first reason is the one to tell.
                self._client.delete(file_id)
            raise
        return file_id

    def _use(self, row: Attached, attributes: Mapping[str, str]) -> None:
        """Use what the store has: index it again if that failed, and have it know its source."""
        changed = {**row.attributes, **attributes}
        if not row.is_good:
            if self._rights:
                self._client.change(row.file_id, self._rights)
            self._client.attach(self._store, row.file_id, changed)
        elif changed != row.attributes:
            self._client.set_attributes(self._store, row.file_id, changed)

    def _indexed(self, key: FileKey, sha256: str, file_id: str) -> Attached:
        """A file of the store when it is indexed, or failed."""
        state = self._client.indexed(self._store, file_id)
        if state is None:  # Another run had added the same, and took this one out.
            rows = [row for row in self._client.attached(self._store) if FileKey.of(row) == key]
            same = next((row for row in rows if row.sha256 == sha256 and row.is_good), None)
            state = same and self._client.indexed(self._store, same.file_id)
        if state is None:
            raise CallFailed("it was taken out of the store meanwhile; run this again")
        return state

    def _keep_one(self, rows: Rows, kept: Attached) -> None:
        for file_id in {row.file_id for row in rows} - {kept.file_id}:
            self._client.detach(self._store, file_id)

    def _remove(self, key: FileKey, rows: Rows) -> FileOutcome:
        try:
            for row in rows:
                self._client.detach(self._store, row.file_id)
        except CallFailed as error:
            return FileOutcome(key.path, "failed", str(error), key.source)
        return FileOutcome(key.path, "removed", None, key.source)

    def _remove_doubles(self, keys: Collection[FileKey]) -> None:
        """Remove doubles that another run has added meanwhile: one of each stays."""
        if not keys:
            return
        kept: dict[object, Attached] = {}
        with suppress(CallFailed):  # The next run does it.
            rows = self._client.attached(self._store)
            for row in sorted(rows, key=lambda row: (row.created_at, row.file_id)):
                key = FileKey.of(row)
                if key not in keys or row.status != "completed":
                    continue
                if kept.setdefault((key, row.sha256), row) is not row:
                    self._client.detach(self._store, row.file_id)


def _progress() -> Progress:
    """Bars on a terminal. Descriptions are names of files, so nothing in them is markup."""
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not sys.stderr.isatty())


def _attributes(key: FileKey, sha256: str) -> dict[str, str]:
    return {"source": key.source, "path": key.path, "sha256": sha256}


def _same(versions: Rows, sha256: str) -> Attached | None:
    """The version in the store that has these bytes, the best if there are several."""
    same = [row for row in versions if row.sha256 == sha256]
    return max(same, key=lambda row: (row.is_good, row.status == "completed"), default=None)


def _last_good(versions: Rows) -> Attached | None:
    """The newest version that is indexed."""
    good = [row for row in versions if row.status == "completed"]
    return max(good, key=lambda row: (row.created_at, row.file_id), default=None)
