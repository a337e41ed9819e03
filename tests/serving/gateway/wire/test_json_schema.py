"""What is a JSON schema: the same as `jsonschema` says, whatever a client makes up."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from serving.gateway.wire.json_schema import _KEYWORDS, is_schema

KEYWORDS = sorted({*_KEYWORDS, "const", "default", "x-unknown"})
PATTERNS = st.sampled_from(["^a+$", "(", "[b-a]", "a{2,1}", "(?P<n>x)", "\\d", "*"])
LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, 2.0, -1.0, 1e300])
    | st.sampled_from(["string", "object", "a", "A-1", "a#", "#", "1a"])
    | PATTERNS
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(KEYWORDS) | PATTERNS
    return st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)


VALUES = st.recursive(LEAVES, _containers, max_leaves=8)
SCHEMAS = st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=3)


def by_the_metaschema(value: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of patterns that `re` will read in another way one day.
        try:
            Draft202012Validator.check_schema(value)
        except (SchemaError, OverflowError):  # The second: of a pattern that repeats too often.
            return False
    return True


@given(SCHEMAS)
@example({"$recursiveAnchor": "a"})
@settings(max_examples=300, deadline=None)
def test_verdict_is_the_one_of_the_metaschema(schema: dict[str, Any]) -> None:
    assert is_schema(schema) == by_the_metaschema(schema)


VALUES_OF_ALL_KINDS: list[Any] = [
    None, True, 0, 1, -1, 1.0, 1.5, "a", "string", "1a", "a#b", "(", "a{9999999999999}", [],
    ["string"], ["a"], ["a", "a"], ["string", "string"], [1], [{}], [True], [None], {}, {"a": {}},
    {"a": 1}, {"a": ["b"]}, {"a": ["b", "b"]}, {"a": True}, {"(": {}}, {"type": "none"},
]  # fmt: skip


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_keyword_takes_what_the_metaschema_says(keyword: str) -> None:
    schemas = [{keyword: value} for value in VALUES_OF_ALL_KINDS]
    assert [is_schema(one) for one in schemas] == [by_the_metaschema(one) for one in schemas]


HOSTILE = """
from serving.gateway.wire.json_schema import is_schema
print([
    is_schema({"anyOf": [{}] * 500_000}),
    is_schema({"required": [one for number in range(99_999) for one in (number, str(number))]}),
    is_schema({"pattern": "[\u0101-\uffff]" * 100_000}),
])
"""


def test_hostile_schema_does_not_take_for_ever() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[True, False, True]"
