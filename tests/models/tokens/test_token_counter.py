from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import prepare
from models.catalog import ModelSpec, PackagedSource, builtin
from models.embedding.embedder import SentenceEmbedder
from models.engine import (
    Delta,
    Engine,
    EngineUnavailable,
    GenerationRequest,
    Kind,
    TokenizeRequest,
    Tokens,
    Usage,
)
from models.simulated.engine import SimulatedEngine
from models.simulated.text import MARK, encode
from models.tokens.token_counter import (
    INLINE_CHARACTERS,
    SPECIAL_TOKENS,
    LocalCounter,
    RemoteCounter,
    SimulatedCounter,
    counter,
    upper_bound,
)
from serving.gateway.wire.chat import ChatRequest, CompletionRequest

SMOLLM2 = builtin()["smollm2-135m-instruct"]
MINILM = builtin()["all-minilm-l6-v2"]
SIMULATED = builtin()["simulated"]

TOOLS_TEMPLATE = """\
{%- set ns = namespace(calls=0) %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- tool.function.parameters | tojson(indent=2) + '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and not message.content %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + (' ' + message.name if message.name else '') + '\\n' }}
    {%- if message.thinking is defined %}{{ '<think>' + message.reasoning_content }}{% endif %}
    {%- generation %}{{ message.content }}{% endgeneration %}
    {%- for call in message.tool_calls or [] %}
        {%- set ns.calls = ns.calls + 1 %}
        {{- call | tojson }}
        {%- for name, value in call.function.arguments | items %}
            {{- name }}={{ value | tojson }};
        {%- endfor %}
    {%- endfor %}
    {{- message.tool_call_id or '' }}{{ eos_token + '\\n' }}
{%- endfor %}
{%- if ns.calls > 9 %}{{ raise_exception('too many') }}{% endif %}
{%- if reasoning_effort is defined %}{{ reasoning_effort }} {{ enable_thinking }}{% endif %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
PARTS_TEMPLATE = """\
{%- set said = messages[1:] %}
{%- for turn in said %}{{ turn | tojson }}{% endfor %}
{%- for message in messages %}{{ bos_token + message['role'] }}
    {%- if message.content is string %}{{ 'string: ' + message.content }}
    {%- else %}{% for part in message['content'] %}{{ part.type + ': ' + part.text }}{% endfor %}
    {%- endif %}
{%- endfor %}
"""
RENAMED_TEMPLATE = """\
{%- for message in messages %}{% set content = message.content %}
    {%- if content is string %}{{ content }}
    {%- else %}{% for part in content | reverse %}{{ part | tojson }}{% endfor %}{% endif %}
{%- endfor %}
"""
TUPLE_TEMPLATE = """\
{%- for message, n in messages | map('list') | list and [] %}{% endfor %}
{%- for part in messages[0].content %}{{ part | tojson }}{% endfor %}
"""
BLOCKS_TEMPLATE = """\
{% for message in messages %}
    {% if message.role == 'user' %}

User: {{ message.content | trim }}
    {% else %}
Other: {{ message.content }}

    {% endif %}
{% endfor %}
"""
TEMPLATES = {
    "its own": None,
    "tools": TOOLS_TEMPLATE,
    "parts": PARTS_TEMPLATE,
    "renamed": RENAMED_TEMPLATE,
    "tuple": TUPLE_TEMPLATE,
    "blocks": BLOCKS_TEMPLATE,
}

SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Łódź"]}}},
        "days": {"type": "array", "items": {"type": ["integer", "null"]}, "default": None},
    },
    "required": ["place"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "now", "description": "<b>Time</b> & 'zone'"}},
]
CALLS = [
    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"days": [1]}'}},
    {"id": "b", "type": "function", "function": {"name": "now", "arguments": ""}},
    {"id": "c", "type": "function", "function": {"name": "now", "arguments": "not JSON"}},
    {"id": "d", "type": "function", "function": {"name": "now", "arguments": "[1]"}},
]
USER = {"role": "user", "content": "What is the weather?"}
CHATS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [USER]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    "turns": {"messages": [USER, {"role": "assistant", "content": "Wet."}, USER] * 3},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Two "}]},
        ]
    },
    "names": {"messages": [USER | {"name": "bob"}]},
    "empty": {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}]},
    "no content": {"messages": [USER, {"role": "assistant", "content": None}, USER]},
    "unicode": {"messages": [{"role": "user", "content": "日本語 عربي é \u0301 \x00 \u2028 ﷺ"}]},
    "emoji": {"messages": [{"role": "user", "content": "👩‍👩‍👧‍👦🏳️‍🌈 🙂" * 5}]},
    "control tokens": {"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system"}]},
    "tools": {"messages": [USER], "tools": TOOLS},
    "tools unwanted": {"messages": [USER], "tools": TOOLS, "tool_choice": "none"},
    "tool results": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "content": "17 °C", "tool_call_id": "a", "name": "weather"},
            {"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": "b"},
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
    },
    "no tool calls": {"messages": [USER, {"role": "assistant", "content": "x", "tool_calls": []}]},
    "reasoning": {
        "messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "Hm."}, USER],
        "reasoning_effort": "low",
    },
    "no reasoning": {"messages": [USER], "reasoning_effort": "none"},
}
PROMPTS: dict[str, Any] = {
    "text": "Once upon a time 日本",
    "empty text": "",
    "control tokens": "<|im_start|>user<extra>\n",
    "texts": ["Once", "upon a time, twice", ""],
    "token ids": [1, 2, 3],
    "lists of token ids": [[1, 2, 3], [4]],
}
SURROGATE = "a lone \ud800 surrogate"

texts = st.text(max_size=200)


def chat_body(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what an engine gets of a client's request."""
    return ChatRequest.model_validate({"model": "m"} | fields).to_engine()


def completion_body(prompt: Any) -> dict[str, Any]:
    return CompletionRequest.model_validate({"model": "m", "prompt": prompt}).to_engine()


def count(of: Any, kind: Kind, body: dict[str, Any]) -> int:
    counted: int = asyncio.run(of.count(kind, body))
    return counted


def load(directory: Path) -> Any:
    """Load the tokenizer as vLLM does."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def tokens_of_vllm(tokenizer: Any, body: dict[str, Any]) -> int:
    """Return the length of the prompt that vLLM's own functions make of a chat."""
    from vllm.entrypoints.chat_utils import parse_chat_messages
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.hf import (
        resolve_chat_template_content_format,
        safe_apply_chat_template,
    )

    model: Any = SimpleNamespace(
        revision=None,
        code_revision=None,
        trust_remote_code=False,
        multimodal_config=None,
        enable_prompt_embeds=False,
        hf_config=SimpleNamespace(model_type="llama"),
    )
    request = ChatCompletionRequest.model_validate(deepcopy(body))
    tools = None if request.tools is None else [tool.model_dump() for tool in request.tools]
    form = resolve_chat_template_content_format(None, tools, "auto", tokenizer, model_config=model)
    conversation, _, _ = parse_chat_messages(request.messages, model, form)
    params = request.build_chat_params(None, "auto").with_defaults(
        {"tools": tools, "tokenize": False}
    )
    prompt = safe_apply_chat_template(
        model, tokenizer, conversation, **params.get_apply_chat_template_kwargs()
    )
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def tokens_of(tokenizer: Any, prompt: Any) -> int:
    """Count the tokens of a completion's prompts, special ones included."""
    one = isinstance(prompt, str) or isinstance(prompt[0], int)
    several = [prompt] if one else prompt
    return sum(len(tokenizer.encode(p)) if isinstance(p, str) else len(p) for p in several)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what `prepare` writes for SmolLM2, without the weights, which take half a minute."""
    from transformers import AutoTokenizer

    assert isinstance(SMOLLM2.source, PackagedSource)
    source = prepare._packaged(SMOLLM2.source)
    directory = tmp_path_factory.mktemp("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, local_files_only=True
    )
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare.prepare(MINILM, tmp_path_factory.mktemp("home"))


def changed(source: Path, target: Path, *, template: str | None = None, **config: Any) -> Path:
    """Copy a model's directory with another template and configuration."""
    shutil.copytree(source, target)
    if template is not None:
        (target / "chat_template.jinja").write_text(template)
    path = target / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


@pytest.fixture(scope="module")
def local(smollm2: Path) -> LocalCounter:
    return LocalCounter(SMOLLM2, smollm2)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return load(smollm2)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_chats_have_the_tokens_that_vllm_makes_of_them(
    smollm2: Path, tmp_path: Path, template: str | None
) -> None:
    directory = changed(smollm2, tmp_path / "m", template=template)
    local, tokenizer = LocalCounter(SMOLLM2, directory), load(directory)
    bodies = {name: chat_body(fields) for name, fields in CHATS.items()}
    expected = {name: tokens_of_vllm(tokenizer, body) for name, body in bodies.items()}
    assert {name: count(local, "chat", body) for name, body in bodies.items()} == expected


@pytest.mark.parametrize("named", [True, False])
def test_chats_with_tools_use_the_template_for_tools(
    smollm2: Path, tmp_path: Path, named: bool
) -> None:
    directory = changed(smollm2, tmp_path / "m")
    if named:
        (directory / "additional_chat_templates").mkdir()
        (directory / "additional_chat_templates/tool_use.jinja").write_text(TOOLS_TEMPLATE)
    else:
        own = (directory / "chat_template.jinja").read_text()
        (directory / "chat_template.jinja").unlink()
        kept = [
            {"name": "default", "template": own},
            {"name": "tool_use", "template": TOOLS_TEMPLATE},
        ]
        directory = changed(directory, tmp_path / "n", chat_template=kept)
    local, tokenizer = LocalCounter(SMOLLM2, directory), load(directory)
    for name in ("one turn", "tools", "tool results"):
        body = chat_body(CHATS[name])
        assert count(local, "chat", body) == tokens_of_vllm(tokenizer, body)


@given(said=texts, system=texts | st.none())
def test_any_text_counts_as_transformers_counts_it(
    local: LocalCounter, tokenizer: Any, said: str, system: str | None
) -> None:
    messages = [{"role": "user", "content": said}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert count(local, "chat", chat_body({"messages": messages})) == len(ids)
    assert count(local, "completion", {"prompt": said}) == len(tokenizer.encode(said))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_eos_token": False},
        {"split_special_tokens": True},
        {"bos_token": {"content": "<extra>", "lstrip": False, "__type": "AddedToken"}},
        {"extra_special_tokens": ["<extra>"]},
        {"additional_special_tokens": ["<extra>"]},
        {"extra_special_tokens": {"image_token": "<extra>"}},
        {"audio_token": "<extra>"},
    ],
    ids=str,
)
def test_completions_have_the_tokens_of_each_prompt(
    smollm2: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    directory = changed(smollm2, tmp_path / "m", **config)
    local, tokenizer = LocalCounter(SMOLLM2, directory), load(directory)
    counted = {n: count(local, "completion", completion_body(p)) for n, p in PROMPTS.items()}
    assert counted == {name: tokens_of(tokenizer, prompt) for name, prompt in PROMPTS.items()}


async def test_inputs_to_embed_have_the_tokens_that_the_embedder_reports(minilm: Path) -> None:
    embedder = SentenceEmbedder(MINILM, minilm)
    inputs = ["A cat.", "", "日本語 \x00 É\u0301 🙂", "word " * 200, "[CLS] [MASK] x", "x" * 150]
    ids = await embedder.encode(inputs)
    local = LocalCounter(MINILM, minilm)
    assert await local.count_texts(inputs) == sum(map(len, ids))
    assert await local.count_texts(ids) == sum(map(len, ids))
    assert local.context_tokens == embedder.max_tokens == 256
    embedder.close()


async def test_inputs_to_embed_are_not_truncated(minilm: Path) -> None:
    assert await LocalCounter(MINILM, minilm).count_texts(["word " * 1000] * 2) == 2004


async def test_long_texts_are_counted_in_a_thread_and_short_ones_at_once(
    local: LocalCounter, tokenizer: Any
) -> None:
    for repeated, at_once in ((INLINE_CHARACTERS // 5, True), (INLINE_CHARACTERS // 5 + 1, False)):
        task = asyncio.create_task(local.count("completion", {"prompt": "word " * repeated}))
        await asyncio.sleep(0)
        assert task.done() == at_once
        assert await task == len(tokenizer.encode("word " * repeated))


def long_chat() -> dict[str, Any]:
    return chat_body({"messages": [{"role": "user", "content": "word " * INLINE_CHARACTERS}]})


async def test_long_chats_are_rendered_in_a_thread_and_short_ones_at_once(
    local: LocalCounter,
) -> None:
    function = {"name": "f", "description": "x" * INLINE_CHARACTERS}
    tools = [{"type": "function", "function": function}]
    chats = {
        "long": long_chat(),
        "short": chat_body({"messages": [USER]}),
        "tools": chat_body({"messages": [USER], "tools": tools}),
    }
    at_once = {}
    for name, body in chats.items():
        task = asyncio.create_task(local.count("chat", body))
        await asyncio.sleep(0)
        at_once[name] = task.done()
        assert await task
    assert at_once == {"long": False, "short": True, "tools": False}


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"


async def test_template_that_takes_too_long_gives_no_count_and_ends(
    smollm2: Path, tmp_path: Path
) -> None:
    directory = changed(smollm2, tmp_path / "m", template=ENDLESS)
    local = LocalCounter(SMOLLM2, directory, timeout_s=0.05)
    async with asyncio.timeout(60):
        assert await local.count("chat", long_chat()) is None
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no ' + messages[0].content) }}", "{{ 1 / 0 }}", "{% if %}", "{{ x.y }}"],
)
def test_template_that_fails_gives_no_count(smollm2: Path, tmp_path: Path, template: str) -> None:
    local = LocalCounter(SMOLLM2, changed(smollm2, tmp_path / "m", template=template))
    body = chat_body(CHATS["tool results"])
    assert count(local, "chat", body) is None


def test_model_without_a_template_gives_no_count(smollm2: Path, tmp_path: Path) -> None:
    directory = changed(smollm2, tmp_path / "m")
    (directory / "chat_template.jinja").unlink()
    body = chat_body(CHATS["system"])
    assert count(LocalCounter(SMOLLM2, directory), "chat", body) is None


async def test_text_without_utf_8_gives_no_count(local: LocalCounter) -> None:
    body = {"messages": [{"role": "user", "content": SURROGATE}]}
    assert await local.count("chat", body) is None
    prompt = {"prompt": SURROGATE}
    assert await local.count("completion", prompt) is None
    assert await local.count_texts([SURROGATE]) is None


@pytest.mark.parametrize(
    "template", ["{{ ns._x }}{% set ns = namespace(_x=1) %}", "{{ dict.__class__.__mro__ }}"]
)
def test_template_cannot_leave_the_sandbox(smollm2: Path, tmp_path: Path, template: str) -> None:
    local = LocalCounter(SMOLLM2, changed(smollm2, tmp_path / "m", template=template))
    body = chat_body(CHATS["one turn"])
    assert count(local, "chat", body) is None


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_upper_bound_is_no_less_than_the_tokens(
    smollm2: Path, tmp_path: Path, template: str | None
) -> None:
    local = LocalCounter(SMOLLM2, changed(smollm2, tmp_path / "m", template=template))
    for fields in CHATS.values():
        body = chat_body(fields)
        assert upper_bound("chat", body) >= count(local, "chat", body)


@given(st.lists(texts | st.lists(st.integers(0, 9)), min_size=1).filter(lambda one: one != [[]]))
def test_upper_bound_of_prompts_is_no_less_than_their_tokens(
    local: LocalCounter, prompts: list[Any]
) -> None:
    counted = asyncio.run(local.count_texts(prompts))
    assert counted is not None
    assert upper_bound("completion", {"prompt": prompts}) >= counted


async def usage_of(engine: SimulatedEngine, kind: Kind, body: dict[str, Any]) -> Usage:
    request = GenerationRequest("r", kind, body | {"max_tokens": 1})
    items = [item async for item in engine.generate(request)]
    assert isinstance(items[-1], Usage)
    return items[-1]


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
async def test_simulated_chats_have_the_tokens_that_the_engine_reports(
    fields: dict[str, Any],
) -> None:
    body = chat_body(fields)
    usage = await usage_of(SimulatedEngine(SIMULATED), "chat", body)
    assert await SimulatedCounter(SIMULATED).count("chat", body) == usage.prompt_tokens


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
async def test_simulated_completions_have_the_tokens_that_the_engine_reports(prompt: Any) -> None:
    body = completion_body(prompt)
    usage = await usage_of(SimulatedEngine(SIMULATED), "completion", body)
    assert await SimulatedCounter(SIMULATED).count("completion", body) == usage.prompt_tokens


@given(
    st.text() | st.lists(st.sampled_from([MARK, " river", " stone.", "stone", "é"])).map("".join)
)
def test_simulated_tokens_are_as_many_as_are_encoded(text: str) -> None:
    counted = asyncio.run(SimulatedCounter(SIMULATED).count_texts([text, text]))
    assert counted == 2 * len(encode(text))


def test_simulated_tool_that_cannot_be_rendered_gives_no_count() -> None:
    body = chat_body(CHATS["tools"] | {"tools": [deepcopy(TOOLS[0])]})
    body["tools"][0]["function"]["parameters"] = {"maximum": 10**30}
    assert count(SimulatedCounter(SIMULATED), "chat", body) is None


class Asked(Engine):
    """An engine that records requests and gives each prompt ten tokens, or fails."""

    def __init__(self, *, failing_from: int = 99) -> None:
        self.requests: list[TokenizeRequest] = []
        self._failing_from = failing_from

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        self.requests.append(request)
        if len(self.requests) >= self._failing_from:
            raise EngineUnavailable("The model is not available now; try again later.")
        return Tokens(list(range(10)), context_tokens=512)

    async def detokenize(self, token_ids: list[int]) -> str:
        raise NotImplementedError

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        raise NotImplementedError


async def test_remote_chats_are_asked_for_with_tools_and_with_reasoning_as_vllm_names_it() -> None:
    engine = Asked()
    body = chat_body(CHATS["reasoning"] | {"tools": TOOLS})
    assert await RemoteCounter(engine, None).count("chat", body) == 10
    [request] = engine.requests
    assert request.tools == body["tools"]
    assert request.messages == [
        body["messages"][0],
        body["messages"][1] | {"reasoning": "Hm."},
        body["messages"][2],
    ]


async def test_remote_completions_are_asked_for_by_the_text() -> None:
    engine = Asked()
    assert await RemoteCounter(engine, None).count("completion", {"prompt": ["a", "b"]}) == 20
    assert engine.requests == [TokenizeRequest(prompt="a"), TokenizeRequest(prompt="b")]
    assert await RemoteCounter(engine, None).count("completion", {"prompt": [[1, 2], [3]]}) == 3
    assert len(engine.requests) == 2


async def test_remote_counts_equal_those_of_the_engine() -> None:
    remote = RemoteCounter(SimulatedEngine(SIMULATED), None)
    for fields in CHATS.values():
        body = chat_body(fields)
        assert await remote.count("chat", body) == count_simulated(body)


def count_simulated(body: dict[str, Any]) -> int:
    text = SimulatedEngine(SIMULATED)._prompts(GenerationRequest("r", "chat", body))
    return len(text[0])


@pytest.mark.parametrize("engine", [Asked(failing_from=1), None])
async def test_there_is_no_remote_count_when_the_engine_does_not_answer(
    engine: Asked | None,
) -> None:
    remote = RemoteCounter(engine, 4096)
    body = chat_body(CHATS["tools"])
    assert await remote.count("chat", body) is None
    assert await remote.count("completion", {"prompt": "é"}) is None
    assert upper_bound("completion", {"prompt": "é"}) == 2 + SPECIAL_TOKENS


async def test_there_is_no_remote_count_when_that_of_one_prompt_fails() -> None:
    remote = RemoteCounter(Asked(failing_from=2), None)
    body = {"prompt": ["one", "two"]}
    assert await remote.count("completion", body) is None


async def test_remote_context_is_what_is_known_or_else_what_the_engine_says() -> None:
    for known, expected in ((None, 512), (128, 128)):
        remote = RemoteCounter(Asked(), known)
        assert remote.context_tokens == known
        await remote.count("completion", {"prompt": "a"})
        assert remote.context_tokens == expected


async def test_simulated_context_is_the_engines() -> None:
    for spec in (SIMULATED, ModelSpec(id="s", engine="simulated")):
        tokens = await SimulatedEngine(spec).tokenize(TokenizeRequest(prompt="a"))
        assert SimulatedCounter(spec).context_tokens == tokens.context_tokens


def test_local_context_is_the_catalogues(local: LocalCounter) -> None:
    assert local.context_tokens == SMOLLM2.context_tokens


def test_simulated_model_is_counted_in_this_process() -> None:
    assert isinstance(counter(SIMULATED, None, Asked()), SimulatedCounter)


def test_model_with_files_here_is_counted_by_them(smollm2: Path, minilm: Path) -> None:
    assert isinstance(counter(SMOLLM2, smollm2, Asked()), LocalCounter)
    assert isinstance(counter(MINILM, minilm, None), LocalCounter)


def test_model_without_files_here_is_asked(tmp_path: Path) -> None:
    assert isinstance(counter(SMOLLM2, None, Asked()), RemoteCounter)
    assert isinstance(counter(SMOLLM2, tmp_path, Asked()), RemoteCounter)


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", '{"architectures": ["GptOssForCausalLM"]}'), ("consolidated.safetensors", "")],
)
def test_model_whose_prompts_vllm_makes_in_code_is_asked(
    smollm2: Path, tmp_path: Path, name: str, text: str
) -> None:
    directory = changed(smollm2, tmp_path / "m")
    (directory / name).write_text(text)
    assert isinstance(counter(SMOLLM2, directory, Asked()), RemoteCounter)


@pytest.mark.parametrize("argument", ["chat_template", "tokenizer", "default_chat_template_kwargs"])
def test_model_whose_prompts_vllms_arguments_change_is_asked(smollm2: Path, argument: str) -> None:
    spec = SMOLLM2.model_copy(update={"engine_kwargs": {argument: "x"}})
    assert isinstance(counter(spec, smollm2, Asked()), RemoteCounter)


def test_names_of_arguments_and_architectures_are_vllms_own() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs
    from vllm.model_executor.models import ModelRegistry

    from models.tokens.token_counter import _RENDERED_IN_CODE, _RENDERING_ARGUMENTS

    known = AsyncEngineArgs.__dataclass_fields__ | FrontendArgs.__dataclass_fields__
    assert known.keys() >= _RENDERING_ARGUMENTS
    assert set(ModelRegistry.get_supported_archs()) >= _RENDERED_IN_CODE


def test_importing_it_loads_no_model_library() -> None:
    script = (
        "import sys, models.tokens.token_counter; print(*{m.partition('.')[0] for m in sys.modules}"
        " & {'torch', 'transformers', 'vllm', 'ray', 'sentence_transformers'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []
