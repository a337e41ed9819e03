"""`ringfence.yaml`: read once, strictly, into frozen settings."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.catalog import builtin
from serving.config import (
    DEFAULT_MODELS,
    EMBEDDED_VALKEY,
    BudgetDefault,
    ConfigError,
    LimitDefault,
    ServerSettings,
    Settings,
    json_schema,
    load,
    parse,
    read,
)
from serving.config.settings import SpendingDefaults

EXAMPLE = """
server: {host: 0.0.0.0, port: 8080, keep_alive_s: 5}
limits: {max_choices: 4}
access:
  database: postgresql://ringfence:secret@db/ringfence
  secret: ${RINGFENCE_SECRET}
ray: {address: auto}
models:
  - smollm2-135m-instruct
  - {base: simulated, id: slow, simulation: {step_base_ms: 50}}
  - {base: all-minilm-l6-v2, replicas: 2}
  - id: org/large-70b
    source: org/Large-70B
    device: gpu
    tensor_parallel_size: 4
    max_replicas: 3
    engine_kwargs: {max_num_batched_tokens: 8192}
"""
SECRET = "canary-secret-0123456789-0123456789"


def problems(raw: dict[Any, Any], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(raw, environ or {})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_built_in_configuration_needs_no_file() -> None:
    settings = parse({}, {})
    assert [spec.id for spec in settings.models] == list(DEFAULT_MODELS)
    assert settings.server.host == "127.0.0.1"
    assert settings.api_key is None


def test_example_is_read() -> None:
    settings = parse(yaml.safe_load(EXAMPLE), {"RINGFENCE_SECRET": SECRET})
    assert (settings.server.port, settings.limits.max_choices) == (8080, 4)
    assert [spec.id for spec in settings.models] == [
        "smollm2-135m-instruct", "slow", "all-minilm-l6-v2", "org/large-70b"
    ]  # fmt: skip
    assert settings.access.secret is not None
    assert settings.access.secret.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"sever": {}}, "sever: unknown key; did you mean 'server'?"),
        ({"server": {"hots": "a"}}, "server.hots: unknown key; did you mean 'host'?"),
        ({"access": {"databse": "a"}}, "access.databse: unknown key; did you mean 'database'?"),
        ({"limits": {"max_tool": 1}}, "limits.max_tool: unknown key; did you mean 'max_tools'?"),
        ({"ray": {"adress": "a"}}, "ray.adress: unknown key; did you mean 'address'?"),
        (
            {"models": ["simulated", {"id": "simulated", "replica": 1}]},
            "models[1].replica: unknown key; did you mean 'replicas'?",
        ),
        (
            {"models": [{"id": "simulated", "simulation": {"max_bach": 1}}]},
            "models[0].simulation.max_bach: unknown key; did you mean 'max_batch'?",
        ),
        ({"zzz": 1}, "zzz: unknown key"),
        ({"models": ["simulatd"]},
         "models[0]: 'simulatd' is not in the catalogue; did you mean 'simulated'?"),
        ({"models": [{"base": "simulatd", "id": "a"}]},
         "models[0]: 'simulatd' is not in the catalogue; did you mean 'simulated'?"),
        ({"models": [{"base": [1]}]}, "models[0]: [1] is not in the catalogue"),
        ({"models": ["simulated", "simulated"]}, "models: 'simulated' stands twice"),
        ({"models": ["simulated", {"base": "all-minilm-l6-v2", "id": "simulated"}]},
         "models: 'simulated' stands twice"),
        ({"server": 5}, "server: "),
        ({"server": {"port": 70000}}, "server.port: "),
        ({"server": {"port": "http"}}, "server.port: "),
        ({"access": "text"}, "access: must hold a mapping, not str"),
        ({"access": {"home": "/x"}}, "access.home: unknown key"),
        ({"home": "/x"}, "home: set in the environment"),
        ({"api_key": "k"}, "api_key: set in the environment"),
        ({"models": []}, "models: "),
        ({"models": [5]}, "models[0]: "),
        ({"models": "simulated"}, "models: "),
        ({"models": [{"id": "a b", "engine": "simulated"}]}, "models[0].id: "),
        ({"models": [{"id": "a"}]}, "models[0]: a model needs a source"),
        ({1: 2}, ""),
        ({"storage": {"valky": "a"}}, "storage.valky: unknown key; did you mean 'valkey'?"),
        ({"storage": {"valkey": 5}}, "storage.valkey: "),
        ({"embedded_valkey": "unix:///x"}, "embedded_valkey: set in the environment"),
        ({"admission": {"per_user": {}}}, "admission.per_user: unknown key"),
        (
            {"admission": {"per_key": {"request_per_minute": 1}}},
            "admission.per_key.request_per_minute: unknown key; did you mean 'requests_per_minute",
        ),
        (
            {"admission": {"per_key": {"requests_per_minute": {"value": 1, "without_stor": "a"}}}},
            "admission.per_key.requests_per_minute.without_stor: unknown key; did you mean 'with",
        ),
        (
            {"admission": {"per_key": {"requests_per_minute": {"value": 1, "without_store": "a"}}}},
            "admission.per_key.requests_per_minute.without_store: ",
        ),
        ({"admission": {"per_key": {"budget_day": {}}}}, "admission.per_key.budget_day.value: "),
        ({"admission": {"per_model": {"budget_day": 1}}}, "admission.per_model.budget_day: "),
        *(
            ({"admission": {"per_key": {measure: value}}}, f"admission.per_key.{measure}.value: ")
            for measure, value in [
                ("requests_per_minute", -1),
                ("requests_per_minute", 1.5),
                ("requests_per_minute", 2**53),
                ("requests_per_minute", "many"),
                ("tokens_per_request", [1]),
                ("budget_day", -1),
                ("budget_day", "0.0000000001"),
                ("budget_day", 9_000_001),
                ("budget_day", float("nan")),
                ("budget_day", float("inf")),
                ("budget_day", "1,5"),
            ]
        ),
        ({"admission": {"max_request_s": 0}}, "admission.max_request_s: "),
        ({"admission": {"max_queue_wait_s": -1}}, "admission.max_queue_wait_s: "),
        ({"accounting": {"currency": "euro"}}, "accounting.currency: "),
    ],
)  # fmt: skip
def test_mistake_is_told_with_its_place(raw: dict[Any, Any], problem: str) -> None:
    [told] = problems(raw)
    assert told.startswith(problem)


def test_every_mistake_is_told_at_once() -> None:
    raw = {"sever": {}, "server": {"port": 0}, "limits": {"max_choices": "many"}}
    assert len(problems(raw)) == 3


@pytest.mark.parametrize("name", ["server", "access"])
@pytest.mark.parametrize("value", [5, "text", [1]])
def test_group_of_the_wrong_type_is_told_with_a_port_in_the_environment(
    name: str, value: Any
) -> None:
    [problem] = problems({name: value}, {"RINGFENCE_PORT": "9000"})
    assert problem.startswith(f"{name}: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "x"]), JSON))
def test_arbitrary_configuration_is_read_or_refused(raw: dict[str, Any]) -> None:
    with suppress(ConfigError):
        assert parse(raw, {"RINGFENCE_PORT": "9000"}).server.port == 9000


def test_variables_are_filled_from_the_environment_at_any_depth() -> None:
    raw = {
        "server": {"host": "${HOST_A}${HOST_B}"},
        "models": [
            {
                "base": "simulated",
                "id": "${NAME}",
                "engine_kwargs": {"allowed_origins": ["x ${NAME}"]},
            }
        ],
    }
    settings = parse(raw, {"HOST_A": "127.0", "HOST_B": ".0.1", "NAME": "mine"})
    assert settings.server.host == "127.0.0.1"
    assert settings.models[0].id == "mine"
    assert settings.models[0].engine_kwargs == {"allowed_origins": ["x mine"]}


def test_variable_that_is_not_set_is_told_with_its_place() -> None:
    raw = {"models": ["simulated", {"base": "simulated", "id": "${NOPE}"}]}
    assert problems(raw) == ["models[1].id: the environment variable NOPE is not set"]


def test_variable_s_value_is_not_filled_again() -> None:
    assert parse({"server": {"host": "${A}"}}, {"A": "${B}", "B": "b"}).server.host == "${B}"


@pytest.mark.parametrize("text", ["$HOME", "${}", "${1A}", "$${", "{HOME}"])
def test_other_dollars_are_left_alone(text: str) -> None:
    assert parse({"server": {"host": text}}, {}).server.host == text


def test_environment_gives_home_port_and_key() -> None:
    environ = {"RINGFENCE_HOME": "/state", "RINGFENCE_PORT": "9001", "RINGFENCE_API_KEY": "k"}
    settings = parse({"server": {"port": 8001}}, environ)
    assert settings.server.port == 9001
    assert settings.home == Path("/state")
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "k"
    assert settings.access.database_url == "sqlite:////state/ringfence.db"
    assert settings.access.secret_file == Path("/state/secret")


def test_empty_variables_count_as_unset() -> None:
    environ = {"RINGFENCE_HOME": "", "RINGFENCE_PORT": "", "RINGFENCE_API_KEY": ""}
    settings = parse({}, environ)
    assert settings.api_key is None
    assert settings.server.port == 8000
    assert settings.home.is_absolute()


def test_wrong_port_in_the_environment_is_told() -> None:
    assert problems({}, {"RINGFENCE_PORT": "http"})[0].startswith("server.port: ")


def test_secrets_are_not_printed() -> None:
    raw = {"access": {"database": f"postgresql://u:{SECRET}@h/d", "secret": SECRET}}
    settings = parse(raw, {"RINGFENCE_API_KEY": SECRET})
    shown = f"{settings} {settings!r} {settings.access!r} {settings.model_dump()}"
    assert SECRET not in shown
    assert SECRET not in settings.model_dump_json()


def test_secrets_are_not_told_in_problems() -> None:
    told = problems(
        {"access": {"secret": {"value": "${S}"}, "database": ["${S}"]}, "server": {"port": "${S}"}},
        {"S": SECRET},
    )
    assert SECRET not in "\n".join(told)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse({}, {}).server.port = 1  # type: ignore[misc]


def test_catalogue_entry_is_taken_by_name() -> None:
    assert parse({"models": ["simulated"]}, {}).models == (builtin()["simulated"],)


def test_catalogue_entry_is_changed_by_its_id_or_as_a_base() -> None:
    by_id = parse({"models": [{"id": "simulated", "context_tokens": 99}]}, {}).models[0]
    by_base = parse({"models": [{"base": "simulated", "context_tokens": 99}]}, {}).models[0]
    assert by_id == by_base == builtin()["simulated"].model_copy(update={"context_tokens": 99})


def test_base_with_an_id_of_its_own_is_another_model() -> None:
    raw = {"models": ["simulated", {"base": "simulated", "id": "two"}]}
    settings = parse(raw, {})
    assert [spec.id for spec in settings.models] == ["simulated", "two"]
    assert settings.model("two") == settings.models[1]
    assert settings.model("three") is None


def test_file_is_read_without_filling_variables(tmp_path: Path) -> None:
    file = tmp_path / "ringfence.yaml"
    file.write_text(EXAMPLE)
    assert read(file)["access"]["secret"] == "${RINGFENCE_SECRET}"
    assert read(None) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- a", "must hold a mapping, not list"),
        (b"", "must hold a mapping, not NoneType"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "ringfence.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read(file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nope.yaml")


def test_file_named_by_the_environment_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ringfence.yaml"
    file.write_text("models: [simulated]")
    monkeypatch.setenv("RINGFENCE_CONFIG", str(file))
    assert [spec.id for spec in load().models] == ["simulated"]


def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("raw", [{}, yaml.safe_load(EXAMPLE), {"models": ["simulated"]}])
def test_schema_takes_what_the_reader_takes(raw: dict[str, Any]) -> None:
    validator().validate(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"sever": {}},
        {"server": {"hots": "a"}},
        {"access": {"home": "/x"}},
        {"api_key": "k"},
        {"home": "/x"},
        {"models": []},
        {"models": ["nope"]},
        {"models": [{"context_tokens": 5000}]},
        {"models": [{"id": "a", "simulation": {"max_bach": 1}}]},
        {"server": {"port": 70000}},
    ],
)
def test_schema_refuses_what_the_reader_refuses(raw: dict[str, Any]) -> None:
    assert not validator().is_valid(raw)
    problems(raw)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("node-1", "http://node-1:8000"),
    ],
)
def test_local_url_is_one_that_this_machine_can_call(host: str, url: str) -> None:
    assert ServerSettings.model_validate({"host": host}).local_url == url


def per_key(**measures: Any) -> SpendingDefaults:
    return parse({"admission": {"per_key": measures}}, {}).admission.per_key


def test_nothing_is_limited_unless_it_is_said() -> None:
    admission = parse({}, {}).admission
    groups = (admission.per_key, admission.per_tenant, admission.per_model)
    assert {value for group in groups for _, value in group} == {None}


def test_limit_is_a_bare_number_or_a_value_with_a_policy() -> None:
    group = per_key(
        requests_per_minute=5,
        tokens_per_minute={"value": 6},
        concurrent_requests={"value": 7, "without_store": "refuse"},
        tokens_per_request=None,
    )
    assert group.requests_per_minute == LimitDefault(value=5, without_store="allow")
    assert group.tokens_per_minute == LimitDefault(value=6, without_store="allow")
    assert group.concurrent_requests == LimitDefault(value=7, without_store="refuse")
    assert group.tokens_per_request is None


def test_budget_refuses_without_a_store_unless_it_is_said() -> None:
    group = per_key(budget_day=5, budget_month={"value": 6, "without_store": "allow"})
    assert group.budget_day == BudgetDefault(value=Decimal(5), without_store="refuse")
    assert group.budget_month == BudgetDefault(value=Decimal(6), without_store="allow")


@pytest.mark.parametrize("value", ["0.1", "0.000000001", "1e-9", "12.5", "9000000", "0"])
def test_budget_is_exact_however_yaml_reads_it(value: str) -> None:
    for written in (value, yaml.safe_load(value)):
        group = per_key(budget_total=written)
        assert group.budget_total is not None
        assert group.budget_total.value == Decimal(value)


def test_largest_amounts_are_exact_in_valkey() -> None:
    group = per_key(requests_per_minute=2**53 - 1, budget_day=9_000_000)
    assert group.requests_per_minute is not None
    assert group.budget_day is not None
    for number in (group.requests_per_minute.value, int(group.budget_day.value * 10**9)):
        assert int(float(number)) == number


def test_valkey_of_the_configuration_goes_before_the_one_that_was_started() -> None:
    environ = {EMBEDDED_VALKEY: "unix:///started"}
    configured = {"storage": {"valkey": "redis://configured"}}
    assert parse({}, environ).valkey_url == "unix:///started"
    assert parse(configured, environ).valkey_url == "redis://configured"
    assert parse(configured, {}).valkey_url == "redis://configured"


def test_valkey_that_is_nowhere_is_told_when_it_is_needed() -> None:
    settings = parse({}, {})
    with pytest.raises(ConfigError, match=r"storage.valkey: set the URL"):
        _ = settings.valkey_url


def test_url_of_valkey_is_not_printed() -> None:
    raw = {"storage": {"valkey": f"redis://u:{SECRET}@h"}}
    settings = parse(raw, {})
    shown = f"{settings} {settings!r} {settings.storage!r} {settings.model_dump()}"
    assert SECRET not in shown + settings.model_dump_json()
    assert SECRET not in "\n".join(problems({"storage": {"valkey": [f"redis://u:{SECRET}@h"]}}))


@pytest.mark.parametrize("measure", ["requests_per_minute", "budget_day"])
def test_schema_takes_a_bare_limit(measure: str) -> None:
    raw = {"admission": {"per_key": {measure: 5}}}
    assert parse(raw, {}) != parse({}, {})
    validator().validate(raw)


def test_schema_takes_a_limit_with_a_policy() -> None:
    raw = {"admission": {"per_key": {"budget_day": {"value": 5, "without_store": "allow"}}}}
    validator().validate(raw)
    assert not validator().is_valid({"embedded_valkey": "unix:///x"})
