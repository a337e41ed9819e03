"""Subjects of limits and budgets, as the admin API names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from serving.access.names import MODEL
from serving.access.tenants import DEFAULT_TENANT
from serving.admission.limits import FIXED_KEY_ID, Limit, Subject, SubjectKind
from serving.domain.errors import NotFound
from serving.gateway.admin.administration import Administration


def subject_of(kind: SubjectKind, name: str) -> Subject:
    """Return the subject that a path names. Raises `NotFound` for an invalid name."""
    if not re.fullmatch(MODEL, name):  # The widest; it takes in those of keys and tenants.
        raise NotFound(f"No {kind} has the name {name[:140]!r}.")
    return Subject(kind, name)


async def check_known(administration: Administration, subject: Subject) -> None:
    """Go on only with what exists.

    Raises:
        NotFound: no such model is served here.
        KeyNotFound, TenantNotFound: there is none.
    """
    if subject.kind == "model" and subject.name not in administration.models:
        raise NotFound(f"No model {subject.name!r} is served here.")
    if subject.kind == "tenant" and subject.name != DEFAULT_TENANT:
        await administration.tenants.get(subject.name)
    if subject.kind == "key" and subject.name != FIXED_KEY_ID:
        await administration.keys.get(subject.name)


def by_subject(
    limits: Iterable[Limit], *, after: str | None, count: int
) -> Sequence[tuple[Subject, list[Limit]]]:
    """The limits of each subject, in order of kind and name, of the first `count` after one.

    Args:
        limits: of many subjects.
        after: a subject as text.
        count: subjects at most.
    """
    kind, _, name = (after or "").partition(":")
    grouped: dict[Subject, list[Limit]] = {}
    for limit in limits:
        if (limit.subject.kind, limit.subject.name) > (kind, name):
            grouped.setdefault(limit.subject, []).append(limit)
    return sorted(grouped.items(), key=lambda pair: (pair[0].kind, pair[0].name))[:count]
