"""`docs/api.md`, written from the gateway's OpenAPI document and its table of errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from serving.domain.errors import OUTCOMES
from serving.gateway.headers import RECEIPT, ROUTE
from serving.gateway.idempotency import HEADER as IDEMPOTENCY
from serving.gateway.wire.options import ON_FAILURE, PRIORITY, PRIVACY, TIMEOUT

Schema = dict[str, Any]

INTRODUCTION = """# API reference

Every route of the gateway. Fields that OpenAI has too are named, and mean what OpenAI's reference
says; fields, headers and routes of ours are described. `make tree` writes this file from the routes
themselves.

A request carries its key as `Authorization: Bearer KEY`. Unknown fields of a body are ignored,
except those that look like one of ours and those of the admin API, which are refused.
"""

REQUEST_HEADERS = {
    PRIVACY: "The class of the request: `local_only`, `scrubbed` or `open`. The strictest of "
    "this, the body's `privacy` and the key's class counts.",
    ON_FAILURE: "What to do if the answer breaks off: `fail` or `continue`. The body's "
    "`on_failure` comes first.",
    PRIORITY: "`interactive` (default), or `background`, which lets others go first.",
    TIMEOUT: "Seconds after which the request is given up with a 504.",
    IDEMPOTENCY: "Of a POST: a repeat with the same key and body within a day gets the recorded "
    "answer. 1 to 255 printable ASCII characters.",
    "x-request-id": "The request's id, of up to 128 letters, digits, `.`, `_` and `-`. Any other "
    "is replaced by a new one.",
}
ANSWER_HEADERS = {
    "x-request-id": "The request's id.",
    "openai-processing-ms": "Milliseconds from the request to the beginning of the answer.",
    ROUTE: "Who answered: `local`, or `overflow:PROVIDER`.",
    PRIVACY: "The class that the request had.",
    RECEIPT: "The signed receipt of the answer.",
    "x-ratelimit-*": "OpenAI's `limit`, `remaining` and `reset`, of `requests` and of `tokens`, "
    "for the limit with the least left.",
    "retry-after": "Whole seconds to wait before another try; `retry-after-ms` has milliseconds.",
    "x-should-retry": "`false` where another try cannot help; OpenAI's clients heed it.",
}

ANSWERS: Mapping[str, Mapping[str, str]] = {
    "/v1/models": {
        "task": "`generate`, `embed` or `rerank`.",
        "max_model_len": "The context, in tokens.",
        "simulated": "True if answers are made up; else absent.",
    },
    "/v1/requests/{request_id}": {
        "id": "The request's id.",
        "object": "`request`.",
        "privacy": "The class that the request had.",
        "trigger": "Why a provider was considered; null if none was.",
        "candidates[].route": "A route that was considered, in order.",
        "candidates[].reason": "Why it was not taken or failed, in one word; else null.",
        "candidates[].detail": "The same in a sentence, if there is more to say.",
        "attempts[].route": "`local`, or `overflow:PROVIDER`.",
        "attempts[].model": "The model that was asked for.",
        "attempts[].endpoint": "The kind of request.",
        "attempts[].outcome": "How the try ended.",
        "attempts[].started_at": "When it began.",
        "attempts[].ttft_ms": "Milliseconds to the first token; null if there was none.",
        "attempts[].duration_ms": "Milliseconds to its end.",
        "attempts[].prompt_tokens": "Tokens of the prompt.",
        "attempts[].completion_tokens": "Tokens of the answer.",
        "attempts[].cached_tokens": "Prompt tokens that were in the prefix cache.",
        "attempts[].cost": "What it cost, as a decimal string.",
        "attempts[].currency": "The currency of the cost.",
    },
    "/tokenize": {
        "count": "How many tokens there are.",
        "max_model_len": "The context of the model, in tokens.",
        "tokens": "The token ids.",
        "token_strs": "The text of each token; null unless asked for.",
    },
    "/detokenize": {"prompt": "The text."},
    "/health": {"status": "`alive`."},
    "/ready": {
        "status": "`ready`, `not ready` or `stopping`.",
        "models": "By model, its `state` (`loading`, `ready` or `failed`) and the `reason`.",
        "retrieval": "The same of the search in vector stores; absent if no model embeds.",
    },
    "/v1/requests/{request_id}/receipt": {
        "object": "`request.receipt`.",
        "id": "The request's id.",
        "receipt": "A JSON Web Signature, in its compact form.",
    },
    "/v1/files": {
        "sha256": "The digest of the bytes, in hexadecimal.",
        "access": "Who may read the file.",
        "privacy": "The loosest class of a request that a passage of the file is put into.",
    },
    "/v1/vector_stores": {
        "access": "Who may read the store.",
        "description": "The description that it was created with.",
    },
    "/v1/vector_stores/{store_id}/search": {
        "data[].page": "The page that the passage is on; null where the format has no pages.",
        "data[].position": "The chunk's number in its file.",
    },
    "/v1/chat/completions": {
        "choices[].message.annotations": "With `file_search`: the sources, as `file_citation`.",
        "choices[].message.file_search_call": "With `include`: the passages that were found.",
        "choices[].message.reasoning": "The reasoning of a model that tells it apart.",
    },
}
"""Our fields in the answers of a path."""

FORM = {
    "file": "",
    "purpose": "",
    "expires_after": "",
    "access": 'Who may read the file, as a JSON array: `["tenant"]`, `["group:NAME"]`, '
    '`["user:NAME"]`. Default: the narrowest list that the uploader is on.',
    "privacy": "The loosest class of a request that a passage of the file is put into. Default: "
    "`local_only`.",
}
"""Fields of the form that uploads a file; those of OpenAI have no description."""

_SHOWN_UP_TO = 10**7
"""A larger bound is one of a type, which tells a reader nothing."""

GROUPS = (
    ("Chat, completions and embeddings", ("/v1/chat", "/v1/completions", "/v1/embeddings")),
    ("Tokens", ("/tokenize", "/detokenize")),
    ("Models", ("/v1/models",)),
    ("What became of a request", ("/v1/requests",)),
    ("Files", ("/v1/files",)),
    ("Vector stores", ("/v1/vector_stores",)),
    ("State of the server", ("/health", "/ready", "/metrics")),
    ("Administration", ("/admin/v1",)),
)


def reference(document: Schema) -> str:
    """The whole page."""
    page = Page(document)
    return "\n".join([INTRODUCTION, *_headers(), *_errors(), *page.lines()]) + "\n"


class Page:
    """The sections of the routes.

    Args:
        document: OpenAPI 3.1, whose described fields are those that OpenAI does not have.
    """

    def __init__(self, document: Schema) -> None:
        self._paths: dict[str, dict[str, Schema]] = document["paths"]
        self._schemas: dict[str, Schema] = document["components"]["schemas"]
        self._linked: set[str] = set()

    def lines(self) -> Iterator[str]:
        for title, prefixes in GROUPS:
            yield f"## {title}\n"
            for path, methods in self._paths.items():
                if path.startswith(prefixes):
                    for method, route in methods.items():
                        yield from self._route(method.upper(), path, route)
        yield "## Objects of administration\n"
        told = dict[str, list[str]]()
        while untold := self._linked - told.keys():
            for name in untold:
                told[name] = list(self._fields(self._schemas[name], all_of_them=True))
        for name in sorted(told):
            yield f"### {name}\n"
            yield from told[name]

    def _route(self, method: str, path: str, route: Schema) -> Iterator[str]:
        yield f"### `{method} {path}`\n"
        title = f"{route['summary']}. " if path.startswith("/admin") else ""
        yield title + " ".join(route["description"].split()) + "\n"
        yield from self._parameters(route, ours=path.startswith("/admin"))
        yield from self._body(method, path, route)
        yield from self._answer(method, path, route)

    def _parameters(self, route: Schema, *, ours: bool) -> Iterator[str]:
        asked = [one for one in route.get("parameters", []) if one["in"] == "query"]
        if asked:
            properties = {
                one["name"]: one["schema"]
                | ({"description": one["description"]} if "description" in one else {})
                for one in asked
            }
            yield "In the query:\n"
            yield from self._fields({"properties": properties}, all_of_them=ours)

    def _body(self, method: str, path: str, route: Schema) -> Iterator[str]:
        if (method, path) == ("POST", "/v1/files"):
            yield from _named([name for name, meaning in FORM.items() if not meaning])
            yield from _table(("field", "meaning"), [(f"`{n}`", m) for n, m in FORM.items() if m])
        elif "requestBody" in route:
            schema = _schema_of(route["requestBody"])
            yield from self._fields(self._resolved(schema), all_of_them=path.startswith("/admin"))

    def _answer(self, method: str, path: str, route: Schema) -> Iterator[str]:
        schema = _schema_of(route["responses"]["200"])
        if path.startswith("/admin") and (shape := self._shape(schema)):
            yield f"Answer: {shape}.\n"
        elif method != "DELETE" and (ours := _answer_fields(path)):
            yield "In the answer:\n"
            yield from _table(("field", "meaning"), [(f"`{n}`", m) for n, m in ours.items()])

    def _shape(self, schema: Schema) -> str | None:
        """The object that an answer is; None if it has no name."""
        if "$ref" not in schema:
            return None
        fields = self._resolved(schema).get("properties", {})
        if "has_more" in fields:
            item = self._link(fields["data"]["items"])
            return f"a page (`data`, `has_more`, `last_id`) of {item}"
        return self._link(schema)

    def _link(self, reference: Schema) -> str:
        """The name of an object, which is described at the end of the page."""
        name = reference["$ref"].rsplit("/", 1)[1]
        self._linked.add(name)
        return f"[{name}](#{name.lower()})"

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def _fields(self, schema: Schema, *, all_of_them: bool) -> Iterator[str]:
        rows = list(self._rows(schema, "", all_of_them=all_of_them))
        properties: dict[str, Schema] = schema.get("properties", {})
        if not all_of_them:
            yield from _named(n for n, field in properties.items() if "description" not in field)
        yield from _table(("field", "type", "meaning"), rows)

    def _rows(
        self, schema: Schema, within: str, *, all_of_them: bool
    ) -> Iterator[tuple[str, str, str]]:
        required = schema.get("required", [])
        for name, field in schema.get("properties", {}).items():
            if not all_of_them and "description" not in field:
                continue
            meaning = field.get("description") or ""
            if name in required and within + name != name:
                meaning += " Required."
            if field.get("default") is not None and "const" not in field:
                meaning += f" Default: `{json.dumps(field['default'])}`."
            kind = self._type(field, linked=all_of_them)
            yield f"`{within}{name}`", kind, meaning.strip()
            inner = next((self._resolved(one) for one in _options(field) if "$ref" in one), {})
            if not all_of_them and "properties" in inner and "messages" not in name:
                yield from self._rows(inner, f"{within}{name}.", all_of_them=False)

    def _type(self, field: Schema, *, linked: bool) -> str:
        told = [self._one_type(one, linked=linked) for one in _options(field)]
        return " or ".join(dict.fromkeys(one for one in told if one))

    def _one_type(self, schema: Schema, *, linked: bool) -> str:
        if "properties" in self._resolved(schema):
            return self._link(schema) if linked else "object"
        schema = self._resolved(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return self._type(schema, linked=linked)
        if schema.get("type") == "array":
            items = self._type(schema.get("items", {}), linked=linked)
            return f"array of {items or 'anything'}"
        return _plain_type(schema)


def _plain_type(schema: Schema) -> str:
    """The type of a field that is no object of its own and no array; empty for null."""
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    kind = schema.get("type", "")
    low, high = schema.get("minimum"), schema.get("maximum", math.inf)
    bounds = "" if low is None or high > _SHOWN_UP_TO else f" {_number(low)} to {_number(high)}"
    return "" if kind == "null" else kind + bounds


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _headers() -> Iterator[str]:
    yield "## Headers\n"
    yield "Of a request, all optional:\n"
    yield from _table(("header", "meaning"), [(f"`{n}`", m) for n, m in REQUEST_HEADERS.items()])
    yield "Of an answer:\n"
    yield from _table(("header", "meaning"), [(f"`{n}`", m) for n, m in ANSWER_HEADERS.items()])


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "Every error, on every path and in a stream, is OpenAI's object:\n"
    yield "```json"
    yield '{"error": {"message": "...", "type": "...", "param": "...", "code": "..."}}'
    yield "```\n"
    yield "`param` is the field to change, or null. `code` is one of these, or null.\n"
    rows = sorted(
        (str(one.status), f"`{one.type}`", f"`{one.code}`" if one.code else "null", _meaning(kind))
        for kind, one in OUTCOMES.items()
    )
    yield from _table(("status", "type", "code", "meaning"), rows)


def _meaning(kind: type[Exception]) -> str:
    return (kind.__doc__ or "").split("\n", 1)[0]


def _answer_fields(path: str) -> Mapping[str, str]:
    """Our fields of what a path answers; of a list, those of what is in it."""
    known = {"/v1/models/{model}": "/v1/models", "/v1/files/{file_id}": "/v1/files"}
    known["/v1/vector_stores/{store_id}"] = "/v1/vector_stores"
    return ANSWERS.get(known.get(path, path), {})


def _schema_of(content: Schema) -> Schema:
    schema: Schema = content.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _options(field: Schema) -> list[Schema]:
    options: list[Schema] = field.get("anyOf") or field.get("oneOf") or [field]
    return options


def _named(names: Iterable[str]) -> Iterator[str]:
    told = ", ".join(f"`{name}`" for name in names)
    if told:
        yield f"OpenAI's fields: {told}.\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if not any(row[-1] for row in rows):  # Names that say it.
        head, rows = head[:-1], [row[:-1] for row in rows]
    if rows:
        yield "| " + " | ".join(head) + " |"
        yield "|" + "---|" * len(head)
        for row in rows:
            yield (
                "| "
                + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row)
                + " |"
            )
        yield ""
