from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from dataclasses import replace

import pytest

from benchmarks.client.endpoint import DeploymentError, find_model, target_of
from benchmarks.client.prompts import OPENING
from benchmarks.deployment.plan import BenchPlan
from benchmarks.deployment.procedure import INTERRUPTED, run
from tests.benchmarks.deployment.fake_deployment import HOST, deployed

PLAN = BenchPlan(
    streams=(1, 3), max_tokens=4, duration_s=0.3, warm_up=3, timeout_s=60.0, rates_per_s=()
)


def measured(fake, plan=PLAN, *, key="", phase=lambda _: contextlib.nullcontext()):
    target = target_of(fake.url, api_key=key)
    model = find_model(target, wanted=None)
    return run(target, model, plan, command=("ringfence", "bench"), phase=phase)


def test_a_closed_loop_has_as_many_requests_under_way_as_streams():
    most = []
    with deployed(first_delta_s=0.02, gap_s=0.01) as fake:

        @contextlib.contextmanager
        def counting(_):
            fake.most_under_way = 0
            yield
            most.append(fake.most_under_way)

        one, three = measured(fake, phase=counting).steps
    assert (one.streams, three.streams) == (1, 3)
    assert most[-2:] == [1, 3]
    assert one.failed == three.failed == 0


def test_latencies_are_those_of_the_server():
    with deployed(first_delta_s=0.1, gap_s=0.02) as fake:
        step = measured(fake).steps[0]
    assert step.ttft_s.p50 >= 0.1  # A slow machine only adds to what the server waits.
    assert step.itl_s.p50 >= 0.02
    assert step.ttft_s.p50 + 3 * 0.02 <= step.e2e_s.p50
    assert step.tpot_s.p50 >= 0.02


def test_the_open_loop_runs_around_the_knee():
    with deployed(first_delta_s=0.01) as fake:
        result = measured(fake, replace(PLAN, rates_per_s=None))
    rates = [step.rate_per_s for step in result.open]
    assert rates == [share * result.knee.requests_per_s for share in (0.5, 0.7, 0.9, 1.1)]


def test_rates_that_are_given_are_used():
    with deployed() as fake:
        result = measured(fake, replace(PLAN, streams=(), rates_per_s=(20.0, 40.0)))
    assert [(s.rate_per_s, s.requests) for s in result.steps] == [(20.0, 6), (40.0, 12)]
    assert result.knee is None


def test_no_prompt_is_sent_twice_and_each_step_has_the_same_texts():
    with deployed(first_delta_s=0.03) as fake:
        measured(fake, replace(PLAN, warm_up=1))
    prompts = [chat["messages"][0]["content"] for chat in fake.chats]
    openings = {one[0] for prompt in prompts if (one := OPENING.match(prompt))}
    assert len(openings) == len(prompts)
    bodies = [OPENING.split(prompt)[1] for prompt in prompts]
    # The first is the warm-up's, the second begins the first step: both begin the texts.
    assert bodies[0] == bodies[1]


def test_warm_up_requests_are_in_no_figure():
    with deployed(first_delta_s=0.02) as fake:
        result = measured(fake, replace(PLAN, warm_up=7))
    assert len(fake.chats) == 7 + sum(step.requests for step in result.steps)


def test_prompts_are_as_long_as_asked_for():
    with deployed(first_delta_s=0.05) as fake:
        measured(fake, replace(PLAN, prompt_words=(300, 300)))
    lengths = {len(chat["messages"][0]["content"].split()) for chat in fake.chats}
    assert min(lengths) >= 300
    assert max(lengths) < 330


def test_a_failed_request_is_counted_with_its_reason():
    with deployed(first_delta_s=0.01, refuse={4: (503, "Busy, sk-me.")}, key="sk-me") as fake:
        step = measured(fake, key="sk-me").steps[0]
    assert step.failed == 1
    assert '"Busy, [key]."' in step.first_failure
    assert step.first_failure.startswith("status 503")


def test_a_server_that_refuses_at_once_stops_the_run_with_its_reason():
    told = r"every request failed.*No such model"
    fakes = deployed(refuse_all=(404, "No such model."))
    with fakes as fake, pytest.raises(DeploymentError, match=told):
        measured(fake)
    assert len(fake.chats) == 1


def test_a_step_of_failures_ends_the_run_and_keeps_what_came_before():
    with deployed(first_delta_s=0.1) as fake:

        @contextlib.contextmanager
        def breaking(title):
            if title.startswith("3 streams"):
                fake.refuse_all = (500, "Broken.")
            yield

        result = measured(fake, phase=breaking)
    assert [step.streams for step in result.steps] == [1]
    assert "Broken." in result.ended


def test_an_interrupt_keeps_what_came_before():
    @contextlib.contextmanager
    def interrupting(title):
        if title.startswith("3 streams"):
            raise KeyboardInterrupt
        yield

    with deployed() as fake:
        result = measured(fake, phase=interrupting)
    assert (result.ended, len(result.steps)) == (INTERRUPTED, 1)


def test_an_interrupt_before_the_first_step_is_passed_on():
    @contextlib.contextmanager
    def interrupting(_):
        raise KeyboardInterrupt
        yield

    with deployed() as fake, pytest.raises(KeyboardInterrupt):
        measured(fake, phase=interrupting)


def test_a_server_that_goes_away_is_told():
    with deployed() as fake:
        target = target_of(fake.url, api_key="")
        model = find_model(target, wanted=None)
    with pytest.raises(DeploymentError, match=f"http://{HOST}:{fake.port}/v1: Connect"):
        run(target, model, PLAN, command=(), phase=lambda _: contextlib.nullcontext())


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """TLS for a server, with a certificate that this process trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{HOST}"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-keyout", key, "-out", cert, *subject]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_https_is_measured(certificate):
    with deployed(tls=certificate) as fake:
        assert [step.failed for step in measured(fake).steps] == [0, 0]


def test_an_untrusted_certificate_is_told(certificate, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    with deployed(tls=certificate) as fake, pytest.raises(DeploymentError, match="certificate"):
        measured(fake)
