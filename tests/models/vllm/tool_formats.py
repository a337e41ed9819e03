"""How models write tool calls, for each tool parser of vLLM's that runs here.

Absent: `cohere_command3`, `cohere_command4` (a package of Cohere's), `minimax_m3` (an extension
that the build for CPUs does not have) and `openai` (one model's own tokenizer).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Arguments = dict[str, Any]
Call = tuple[str, Arguments]
Format = Callable[[Sequence[Call]], str]

_DSML = "｜DSML｜"
_KINDS: dict[type, str] = {str: "string", list: "array", dict: "object"}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _objects(calls: Sequence[Call], key: str = "arguments") -> list[str]:
    return [f'{{"name": "{name}", "{key}": {_json(given)}}}' for name, given in calls]


def objects(before: str, separator: str, after: str, *, key: str = "arguments") -> Format:
    """JSON objects of a name and arguments."""
    return lambda calls: before + separator.join(_objects(calls, key)) + after


def first_object(before: str, after: str, *, key: str = "arguments") -> Format:
    """One JSON object, of a model that makes one call at a time."""
    return lambda calls: before + _objects(calls, key)[0] + after


def pythonic(before: str, separator: str, after: str) -> Format:
    """Calls as Python writes them."""

    def written(name: str, given: Arguments) -> str:
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"

    return lambda calls: before + separator.join(written(*call) for call in calls) + after


def each(form: str, separator: str = "", before: str = "", after: str = "") -> Format:
    """JSON arguments in a form with `NAME`, `NUMBER` and `ARGUMENTS`."""

    def written(number: int, name: str, given: Arguments) -> str:
        form_of_it = form.replace("NAME", name).replace("NUMBER", str(number))
        return form_of_it.replace("ARGUMENTS", _json(given))

    return lambda calls: (
        before + separator.join(written(at, *call) for at, call in enumerate(calls)) + after
    )


def tags(
    head: str,
    parameter: str,
    tail: str,
    *,
    separator: str = "",
    before: str = "",
    after: str = "",
) -> Format:
    """A head with `NAME`, and for each parameter a form with `KEY`, `KIND`, `IS_TEXT`, `VALUE`."""

    def one(key: str, value: object) -> str:
        form = parameter.replace("KEY", key).replace("KIND", _KINDS[type(value)])
        form = form.replace("IS_TEXT", _json(isinstance(value, str)))
        return form.replace("VALUE", _text(value))

    def written(number: int, name: str, given: Arguments) -> str:
        begin = head.replace("NAME", name).replace("NUMBER", str(number))
        return begin + "".join(one(key, value) for key, value in given.items()) + tail

    return lambda calls: (
        before + separator.join(written(at, *call) for at, call in enumerate(calls)) + after
    )


def _gemma(value: object) -> str:
    match value:
        case str():
            return f'<|"|>{value}<|"|>'
        case dict():
            return "{" + ",".join(f"{key}:{_gemma(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(_gemma(item) for item in value) + "]"
    return _json(value)


def _gemma4(calls: Sequence[Call]) -> str:
    return "".join(f"<|tool_call>call:{name}{_gemma(given)}<tool_call|>" for name, given in calls)


def _functiongemma(calls: Sequence[Call]) -> str:
    def inside(given: Arguments) -> str:
        return ",".join(f"{key}:<escape>{_text(value)}<escape>" for key, value in given.items())

    begin, end = "<start_function_call>", "<end_function_call>"
    return "".join(f"{begin}call:{name}{{{inside(given)}}}{end}" for name, given in calls)


def _apertus(calls: Sequence[Call]) -> str:
    listed = ", ".join(_json({name: given}) for name, given in calls)
    return f"<|tools_prefix|>[{listed}]<|tools_suffix|>"


_GLM = tags("<tool_call>NAME", "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>", "</tool_call>")
_GLM_LINES = tags(
    "<tool_call>NAME\n",
    "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n",
    "</tool_call>",
    separator="\n",
)
_QWEN = tags(
    "<tool_call>\n<function=NAME>\n",
    "<parameter=KEY>\nVALUE\n</parameter>\n",
    "</function>\n</tool_call>",
    separator="\n",
)


def _deepseek(wrapper: str) -> Format:
    return tags(
        f'<{_DSML}invoke name="NAME">\n',
        f'<{_DSML}parameter name="KEY" string="IS_TEXT">VALUE</{_DSML}parameter>\n',
        f"</{_DSML}invoke>\n",
        before=f"<{_DSML}{wrapper}>\n",
        after=f"</{_DSML}{wrapper}>",
    )


FORMATS: dict[str, Format] = {
    "apertus": _apertus,
    "deepseek_v3": each(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>",
        "\n",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": each(
        "<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>",
        "",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek_v32": _deepseek("function_calls"),
    "deepseek_v4": _deepseek("tool_calls"),
    "dots": tags(
        '<invoke name="NAME">\n',
        '<parameter name="KEY">VALUE</parameter>\n',
        "</invoke>\n",
        before="<dots_function_call>\n",
        after="</dots_function_call>",
    ),
    "ernie45": objects("<tool_call>\n", "\n</tool_call>\n\n<tool_call>\n", "\n</tool_call>\n"),
    "functiongemma": _functiongemma,
    "gemma4": _gemma4,
    "gigachat3": first_object("<|function_call|>", ""),
    "glm45": _GLM_LINES,
    "glm47": _GLM,
    "granite": objects("<|tool_call|>[", ", ", "]"),
    "granite-20b-fc": objects("<function_call> ", "<function_call> ", ""),
    "granite4": objects("<tool_call>", "</tool_call><tool_call>", "</tool_call>"),
    "hermes": objects("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    "hunyuan_a13b": objects("<tool_calls>[", ", ", "]</tool_calls>"),
    "hy_v3": tags(
        "<tool_call>NAME<tool_sep>\n",
        "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n",
        "</tool_call>\n",
        before="<tool_calls>\n",
        after="</tool_calls>",
    ),
    "hy_v4": tags(
        "<tool_call>NAME",
        "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>",
        "</tool_call>",
        before="<tool_calls>",
        after="</tool_calls>",
    ),
    "inkling": each(
        '<|message_model|><|content_invoke_tool_json|>{"name":"NAME","args":ARGUMENTS}<|end_message|>'
    ),
    "internlm": first_object("<|action_start|><|plugin|>", "<|action_end|>", key="parameters"),
    "jamba": objects("<tool_calls>[", ", ", "]</tool_calls>"),
    "kimi_k2": each(
        "<|tool_call_begin|>functions.NAME:NUMBER<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>",
        "",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
    ),
    "kimi_k3": tags(
        '<|open|>call tool="NAME" index="NUMBER"<|sep|>',
        '<|open|>argument key="KEY" type="KIND"<|sep|>VALUE<|close|>argument<|sep|>',
        "<|close|>call<|sep|>",
        before="<|open|>tools<|sep|>",
        after="<|close|>tools<|sep|>",
    ),
    "lfm2": pythonic("<|tool_call_start|>[", ", ", "]<|tool_call_end|>"),
    "ling3": _GLM,
    "llama3_json": objects("", "; ", "", key="parameters"),
    "llama4_json": objects("", "; ", "", key="parameters"),
    "llama4_pythonic": pythonic("<|python_start|>[", ", ", "]<|python_end|>"),
    "longcat": objects(
        "<longcat_tool_call>",
        "</longcat_tool_call><longcat_tool_call>",
        "</longcat_tool_call>",
    ),
    "mimo": _QWEN,
    "minicpm5": tags(
        '<function name="NAME">', '<param name="KEY">VALUE</param>', "</function>"
    ),
    "minimax_m2": tags(
        '<invoke name="NAME">\n',
        '<parameter name="KEY">VALUE</parameter>\n',
        "</invoke>",
        separator="\n",
        before="<minimax:tool_call>",
        after="</minimax:tool_call>",
    ),
    "mistral": each("[TOOL_CALLS]NAMEARGUMENTS"),
    "muse_glimmer": tags(
        ' to=NAME<|message|><atem:function_calls>\n<atem:invoke name="NAME">\n',
        '<atem:parameter name="KEY">VALUE</atem:parameter>\n',
        "</atem:invoke>\n</atem:function_calls>",
        separator="<|eom|><|start|>assistant",
        after="<|eot|>",
    ),
    "olmo3": pythonic("<function_calls>", "\n", "</function_calls>"),
    "phi4_mini_json": objects("functools[", ", ", "]"),
    "poolside_v1": _GLM_LINES,
    "pythonic": pythonic("[", ", ", "]"),
    "qwen3_coder": _QWEN,
    "qwen3_xml": _QWEN,
    "seed_oss": lambda calls: _QWEN(calls).replace("tool_call>", "seed:tool_call>"),
    "step3": tags(
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">',
        '<steptml:parameter name="KEY">VALUE</steptml:parameter>',
        "</steptml:invoke><｜tool_call_end｜>",
        before="<｜tool_calls_begin｜>",
        after="<｜tool_calls_end｜>",
    ),
    "step3p5": _QWEN,
    "xlam": objects("[", ", ", "]"),
}  # fmt: skip
"""By the parser's name, as vLLM has it."""

CONTROL_TOKENS = (
    "<|im_end|>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
    "<tool_call>", "</tool_call>", "<tool_calls>", "</tool_calls>", "<tool_sep>",
    "<seed:tool_call>", "</seed:tool_call>", "<seed:think>", "</seed:think>",
    "<longcat_tool_call>", "</longcat_tool_call>", "<minimax:tool_call>", "</minimax:tool_call>",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<escape>",
    "<start_function_call>", "<end_function_call>", "<|tool_call>", "<tool_call|>", '<|"|>',
    "<|channel>", "<channel|>", "<|turn>", "<|tool_response>", "<|tool_call|>",
    "<|tool_call_start|>", "<|tool_call_end|>", "<|tools_prefix|>", "<|tools_suffix|>",
    "<|python_start|>", "<|python_end|>", "<|function_call|>", "<|action_start|>", "<|plugin|>",
    "<|action_end|>", "<|open|>", "<|close|>", "<|sep|>", "<|message|>", "<|start|>", "<|eom|>",
    "<|eot|>", "<|message_model|>", "<|end_message|>", "<|content_text|>", "<|content_thinking|>",
    "<|content_invoke_tool_json|>", "<|content_invoke_tool_text|>", "<|content_tool_error|>",
    "<|content_model_end_sampling|>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>", "<|tool_calls_section_end|>", "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    "<｜tool_calls_begin｜>", "<｜tool_calls_end｜>", "<｜tool_call_begin｜>",
    "<｜tool_call_end｜>", "<｜tool_sep｜>", f"<{_DSML}tool_calls>", f"</{_DSML}tool_calls>",
    f"<{_DSML}function_calls>", f"</{_DSML}function_calls>",
)  # fmt: skip
"""What these models have as one token each; the first ends an answer."""
