from __future__ import annotations

import socket

import pytest

from benchmarks.client.endpoint import (
    DeploymentError,
    find_model,
    target_of,
    url_of,
    without_secrets,
)
from tests.benchmarks.deployment.fake_deployment import deployed


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://host.example", "https://host.example:443/v1"),
        ("http://host.example/a/b/v1", "http://host.example:80/a/b/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_a_url_may_stand_with_or_without_its_version(url, base):
    assert url_of(target_of(url, api_key="")) == base


@pytest.mark.parametrize(
    "url",
    [
        "nonsense", "ftp://host", "http://", "http://host:port", "http://u:p@host", "http://h/?q=1",
        "http://h/a b", "http://hö",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_deployment_is_refused(url):
    with pytest.raises(ValueError, match=r"URL|Port"):
        target_of(url, api_key="")


def test_a_key_that_cannot_be_sent_is_refused():
    with pytest.raises(ValueError, match="not printable ASCII"):
        target_of("http://host", api_key="a\r\nb: c")


def found(fake, wanted=None, key=""):
    return find_model(target_of(fake.url, api_key=key), wanted=wanted)


def test_the_first_model_that_generates_is_chosen():
    with deployed(models=({"id": "e", "task": "embed"}, {"id": "b"}, {"id": "c"})) as fake:
        assert found(fake).id == "b"
    assert fake.paths == {"/v1/models"}


def test_a_simulated_model_is_known_as_such():
    with deployed(models=({"id": "m"}, {"id": "s", "simulated": True})) as fake:
        assert [found(fake, name).simulated for name in ("m", "s")] == [False, True]


def test_a_model_that_is_not_listed_is_left_to_the_first_request():
    with deployed() as fake:
        assert found(fake, "adapter").id == "adapter"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"models": ()}, "lists no generating model"),
        ({"models": ({"id": "e", "task": "embed"},)}, "lists no generating model"),
        ({"models": ({"name": "m"},)}, "does not answer like OpenAI's API"),
    ],
)
def test_a_list_without_a_model_to_measure_is_told(fields, reason):
    with deployed(**fields) as fake, pytest.raises(DeploymentError, match=reason):
        found(fake)


def test_a_refused_key_is_told_without_the_key():
    with deployed(key="sk-right") as fake:
        assert found(fake, key="sk-right").id == "m"
        with pytest.raises(DeploymentError, match="rejects the key: status 401, Not sk-right"):
            found(fake, key="sk-wrong")


def test_a_server_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(DeploymentError, match=f"no server answers at http://127.0.0.1:{port}/v1"):
        find_model(target_of(f"http://127.0.0.1:{port}", api_key=""), wanted=None)


def test_a_servers_words_are_shown_without_key_and_prompt():
    target = target_of("http://host", api_key="sk-secret")
    told = without_secrets("sk-secret sent '000012-345. Continue this story. The'", target)
    assert told == "[key] sent '[prompt]"
