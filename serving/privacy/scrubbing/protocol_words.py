"""Words, names and numbers of OpenAI's protocol itself, which are not scrubbed.

A closed list. Words are left alone wherever they stand, because none of them says anything about
anybody; all else that stands in a request is looked at, known field or not.
"""

from __future__ import annotations

_SAID = """
    allowed_tools arguments assistant content custom description developer echo encoding_format
    file filename frequency_penalty function function_call functions id include_usage input
    input_text json_object json_schema logit_bias logprobs max_completion_tokens max_tokens messages
    metadata min_p min_tokens modalities model n name output_text parallel_tool_calls parameters
    prediction presence_penalty prompt reasoning reasoning_content reasoning_effort refusal
    repetition_penalty response_format role seed service_tier stop store stream stream_options
    strict suffix system temperature text tool tool_call_id tool_calls tool_choice tools top_k
    top_logprobs top_p type user verbosity

    auto default flex priority none required minimal low medium high xhigh float base64

    additionalProperties allOf anyOf array boolean const contains date date-time default definitions
    dependentRequired dependentSchemas duration else email enum examples exclusiveMaximum
    exclusiveMinimum false format hostname if integer ipv4 ipv6 items maxItems maxLength
    maxProperties maximum minItems minLength minProperties minimum multipleOf not null number object
    oneOf pattern patternProperties prefixItems properties propertyNames schema string then time
    title true uniqueItems uri uuid $comment $defs $id $ref $schema
"""
WORDS = frozenset(_SAID.split())

_NUMBERS = """
    best_of dimensions frequency_penalty logprobs max_completion_tokens max_tokens min_p min_tokens
    n presence_penalty repetition_penalty seed temperature top_k top_logprobs top_p
"""
NUMBERS = frozenset(_NUMBERS.split())
"""Top-level fields that hold nothing but a number."""

Path = tuple[str, ...]
"""Keys from the body down; `*` for a place in a list."""

MODEL: Path = ("model",)

IDS: frozenset[Path] = frozenset(
    {("messages", "*", "tool_calls", "*", "id"), ("messages", "*", "tool_call_id")}
)
"""Ids that only have to match each other."""

FUNCTION_NAMES: frozenset[Path] = frozenset(
    {
        ("functions", "*", "name"),
        ("function_call", "name"),
        ("messages", "*", "function_call", "name"),
        ("messages", "*", "tool_calls", "*", "function", "name"),
        ("messages", "*", "tool_calls", "*", "custom", "name"),
        ("response_format", "json_schema", "name"),
        ("tool_choice", "function", "name"),
        ("tool_choice", "custom", "name"),
        ("tool_choice", "allowed_tools", "tools", "*", "function", "name"),
        ("tools", "*", "function", "name"),
        ("tools", "*", "custom", "name"),
    }
)
"""Names of a program's own, by which its functions and the answers' calls find each other."""

TOKENS: frozenset[Path] = frozenset({("prompt", "*"), ("prompt", "*", "*")}) | frozenset(
    {("input", "*"), ("input", "*", "*")}
)
"""Paths whose numbers are token ids."""

SOUND: frozenset[Path] = frozenset({("audio",), ("messages", "*", "audio")})

PARTS: frozenset[Path] = frozenset(
    {("messages", "*", "content", "*"), ("prediction", "content", "*")}
)
"""Paths of the parts of messages."""

TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
FILE_PARTS = frozenset({"file", "input_file", "document"})
FILE_TEXT_KEYS = frozenset({"type", "file", "document", "filename", "title", "text"})
"""All keys that a file part may have to count as text."""

_POWERS = {2**bits for bits in (15, 16, 31, 32, 53, 63, 64)}
BOUNDS = frozenset(
    {sign * (power - less) for power in _POWERS for less in (0, 1) for sign in (1, -1)}
    | {10**digits for digits in range(5, 19)}
)
"""Numbers that are limits of number types, as schemas name them."""
