import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import orjson
import pytest

from benchmarks.client.load_client import Target, encode_chat
from benchmarks.client.records import RequestRecord
from benchmarks.deployment.step import Limits
from benchmarks.overload.client import Answer, RefusalReader, Request, outcomes, send
from benchmarks.overload.command import main, served
from benchmarks.overload.figures import (
    Around,
    Refusals,
    counted,
    fairness,
    fairness_phase,
    goodput_ratio,
    goodput_step,
)
from benchmarks.overload.plan import NOISY, QUICK, OverloadPlan, arrivals
from benchmarks.overload.report import OverloadRun, markdown, write_json
from benchmarks.running.arms import HOST
from benchmarks.running.machine import Conditions, MachineInfo
from serving import config

OVERLOADED = b'{"error":{"message":"m","type":"server_error","param":null,"code":"overloaded"}}'
ANSWER = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n'
    b"data: [DONE]\n\n"
)
CALM = Conditions(steal_share=0.0, foreign_share=0.0)
BUSY = Conditions(steal_share=0.0, foreign_share=0.5)
AROUND = Around(client_cpu_share=0.1, held_s=None, load_average=0.5, conditions=CALM)
LIMITS = Limits(ttft_s=2.0)


def refusal(*fields, status=503, body=OVERLOADED):
    head = [f"HTTP/1.1 {status} No", f"content-length: {len(body)}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def whole():
    size = f"content-length: {len(ANSWER)}\r\n\r\n".encode()
    return b"HTTP/1.1 200 OK\r\n" + size + ANSWER


# What is sent.


def drawn(rates, *, seed="s", lead_s=10.0, window_s=20.0):
    return arrivals(rates, lead_s=lead_s, window_s=window_s, lengths=(16, 48), seed=seed)


def test_a_tenant_sends_what_its_rate_says_in_lead_in_and_window_apart():
    dues = drawn({"a": 2.0, "b": 0.5})
    times_s = {name: [due.at_s for due in dues if due.tenant == name] for name in "ab"}
    assert [sum(at_s < 10 for at_s in times_s[name]) for name in "ab"] == [20, 5]
    assert [sum(at_s >= 10 for at_s in times_s[name]) for name in "ab"] == [40, 10]


def test_arrivals_are_in_order_and_of_every_length():
    dues = drawn({"a": 100.0})
    assert all(before.at_s <= after.at_s for before, after in pairwise(dues))
    assert {due.tokens for due in dues} == set(range(16, 49))


def test_gaps_of_arrivals_are_exponential():
    gaps_s = [after.at_s - before.at_s for before, after in pairwise(drawn({"a": 200.0}))]
    longer = sum(gap_s > 1 / 200 for gap_s in gaps_s) / len(gaps_s)
    assert longer == pytest.approx(0.368, abs=0.03)  # exp(-1); even arrivals would give about 0.


def test_what_a_tenant_sends_does_not_depend_on_the_others():
    alone = drawn({"quiet": 2.0})
    beside = drawn({"noisy": 100.0, "quiet": 2.0})
    assert alone == [due for due in beside if due.tenant == "quiet"]


def test_another_seed_gives_other_arrivals():
    assert drawn({"a": 2.0}) != drawn({"a": 2.0}, seed="t")


def test_only_the_noisy_tenant_asks_for_more_in_the_second_phase():
    plan = OverloadPlan(quiet=("a", "b", "c"))
    before, after = plan.rates("A", 20.0), plan.rates("B", 20.0)
    assert before == dict.fromkeys(("a", "b", "c", NOISY), 2.5)
    assert after == before | {NOISY: 250.0}


def test_each_pair_of_phases_is_in_the_other_order_than_the_one_before():
    assert OverloadPlan().pairs() == [("A", "B"), ("B", "A"), ("A", "B"), ("B", "A")]


@pytest.mark.parametrize("phases", [("A", "A"), ("A", "B", "B")])
def test_phases_that_are_no_pairs_are_refused(phases):
    with pytest.raises(ValueError, match=r"a pair is|argument 2 is shorter"):
        OverloadPlan(phases=phases).pairs()


def test_the_lead_in_outlasts_the_turn_of_a_queue_to_shedding_more():
    plan = OverloadPlan()
    assert [plan.lead_of(share) > 15 for share in (0.5, 0.9, 1.0, 2.0)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert QUICK.lead_of(2.0) > 15


@pytest.mark.parametrize(("plan", "minutes"), [(OverloadPlan(), 15), (QUICK, 3)])
def test_a_run_leaves_time_for_start_and_stop(plan, minutes):
    assert plan.sends_s < minutes * 60 - 30


def test_the_plan_is_of_the_servers_own_defaults():
    defaults = config.Settings(home="h", models=({"id": "m", "engine": "simulated"},)).models[0]
    plan = OverloadPlan()
    assert (plan.slots, plan.queued) == (
        defaults.max_ongoing_requests, defaults.max_queued_requests,
    )  # fmt: skip


def test_the_server_gets_a_configuration_that_it_understands(tmp_path):
    arm = served(OverloadPlan(slots=8, queued=16), tmp_path)
    settings = config.parse(config.read(tmp_path / "ringfence.yaml"), arm.environment)
    spec = settings.model(arm.model)
    assert spec is not None
    assert (spec.max_ongoing_requests, spec.max_queued_requests) == (8, 16)
    assert (spec.simulated, spec.simulation.max_batch) == (True, 8)
    assert settings.server.port == arm.port


# How it is sent.


@contextlib.asynccontextmanager
async def serving(*script, delay_s=0.0, together=1):
    """A server that answers the n-th request with `script[n]`, then with the last of it.

    It answers nobody before so many requests are there `together`.
    """
    seen: list[Any] = []
    all_there = asyncio.Event()
    writers: list[Any] = []
    connections: list[Any] = []

    async def serve(reader, writer):
        writers.append(writer)
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.rpartition(b"content-length: ")[2]))
                answer = script[min(len(seen), len(script) - 1)]
                seen.append(head)
                if len(seen) >= together:
                    all_there.set()
                await all_there.wait()
                await asyncio.sleep(delay_s)
                writer.write(answer)
                await writer.drain()

    server = await asyncio.start_server(serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Target(host=HOST, port=port, model="m", api_key="k"), connections
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)  # For the handlers to end.


def requests(target, times_s):
    return [Request(at_s, "t", encode_chat(target, "p", max_tokens=1)) for at_s in times_s]


async def sent(target, times_s, *, connections=100):
    return await send(target, requests(target, times_s), connections=connections, deadline_s=60)


async def test_answers_come_in_the_order_of_requests_with_what_became_of_each():
    async with serving(whole(), refusal("retry-after: 7"), b"nonsense\r\n\r\n") as (target, _):
        served, refused, failed = await sent(target, [0.0, 0.1, 0.2])
    assert (served.served, served.refused, served.failed) == (True, False, False)
    assert (refused.served, refused.refused, refused.failed) == (False, True, False)
    assert (failed.served, failed.refused, failed.failed) == (False, False, True)
    assert [a.retry_after_s for a in (served, refused, failed)] == [None, 7.0, None]
    assert outcomes([served, refused, refused, failed]) == {
        "503 overloaded": 2,
        "200": 1,
        "MalformedResponseError: status line b'nonsense'": 1,
    }


async def test_a_request_starts_when_it_is_due_and_not_before():
    async with serving(whole()) as (target, _):
        first, second = await sent(target, [0.05, 0.25])
    assert second.record.start_s - first.record.start_s == pytest.approx(0.2)
    assert min(first.held_s, second.held_s) >= 0


async def test_an_answer_on_its_way_holds_up_nobody():
    async with serving(whole(), together=5) as (target, connections):
        answers = await sent(target, [0.0] * 5)
    assert [answer.served for answer in answers] == [True] * 5
    assert len(connections) == 5


async def test_a_request_that_waits_for_a_connection_is_late_in_its_own_figures():
    async with serving(whole(), delay_s=0.1) as (target, connections):
        answers = await sent(target, [0.0] * 4, connections=2)
    assert len(connections) == 2
    assert sum(answer.held_s >= 0.1 for answer in answers) >= 2
    assert all(a.record.ttft_s >= a.held_s + 0.1 for a in answers)


async def test_an_error_that_is_no_matter_of_room_is_a_failure():
    away = OVERLOADED.replace(b"overloaded", b"key_store_unavailable")
    async with serving(refusal("retry-after: 5", body=away)) as (target, _):
        (found,) = await sent(target, [0.0])
    assert (found.served, found.refused, found.failed) == (False, False, True)
    assert found.outcome == "503 key_store_unavailable"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["retry-after: 3"], 3.0),
        (["Retry-After:12", "x-other: 1"], 12.0),
        (["retry-after-ms: 100"], None),
        ([], None),
    ],
)
def test_retry_after_is_read_however_the_bytes_come(fields, expected, size):
    reader, data = RefusalReader(), refusal(*fields, body=b"retry-after: 9\r\n")
    for begin in range(0, len(data), size):
        reader.feed(data[begin : begin + size], 0.0)
    assert reader.complete
    assert reader.retry_after_s == expected


# What it comes to.


def answer(at_s, *, tenant=NOISY, ttft_s=0.1, status=200, took_s=1.0, error=None, retry=None):
    times_s = (at_s + ttft_s,) if status == 200 else ()
    if status != 200:
        error = f"status {status}: {OVERLOADED.decode()}"
    record = RequestRecord(at_s, times_s, at_s + took_s, status, 2, error)
    return Answer(at_s, tenant, record, 0.0, retry)


def refused(at_s, took_s=0.01, retry=1.0, tenant=NOISY):
    return answer(at_s, tenant=tenant, status=503, took_s=took_s, retry=retry)


def step(answers, *, share=1.0, lead_s=0.0, window_s=10.0, around=AROUND):
    return goodput_step(
        answers, share=share, rate_per_s=share * 20, lead_s=lead_s, window_s=window_s,
        limits=LIMITS, around=around,
    )  # fmt: skip


def test_what_arrived_in_the_lead_in_does_not_count():
    answers = [answer(at_s) for at_s in (0.0, 11.9, 12.0, 40.0)]
    assert [a.at_s for a in counted(answers, lead_s=12)] == [12.0, 40.0]
    assert step(answers, lead_s=12.0).group.sent == 2


def test_goodput_counts_whole_answers_within_the_limit_over_the_window():
    answers = [
        *(answer(i, ttft_s=2.0) for i in range(6)),
        answer(6, ttft_s=2.001),
        answer(7, error="the stream ended without [DONE]"),
        refused(8),
    ]
    found = step(answers, window_s=12.0)
    assert (found.good, found.goodput_per_s) == (6, 0.5)
    assert (found.group.sent, found.group.served, found.group.refusals.count) == (9, 7, 1)
    assert found.group.failures == {"the stream ended without [DONE]": 1}


def test_the_ratio_is_that_of_the_highest_rate_to_the_best():
    steps = [
        step([answer(0)] * good, share=share) for share, good in ((0.9, 18), (1.0, 20), (2.0, 19))
    ]
    found = goodput_ratio(steps)
    assert (found.value, found.peak.share, found.highest.share) == (0.95, 1.0, 2.0)


def test_a_ratio_of_no_good_answers_is_an_error():
    with pytest.raises(ValueError, match="no request"):
        goodput_ratio([step([refused(0)])])


def test_refusals_tell_their_time_code_and_whether_they_say_when_to_come_back():
    found = Refusals.of([answer(0), refused(1, 0.01), refused(2, 0.03), refused(3, 0.06, None)])
    assert found.outcomes == {"503 overloaded": 3}
    assert (found.count, found.in_time, found.without_retry_after) == (3, 2, 1)
    assert found.told_s is not None
    assert found.told_s.count == 3
    assert found.told_s.p50 == pytest.approx(0.03)


def phase(pair, name, ttfts_s, *, noisy=(), more=(), around=AROUND):
    quiet = [answer(5.0, tenant="quiet-1", ttft_s=ttft_s) for ttft_s in ttfts_s]
    return fairness_phase(
        [*quiet, *more, *noisy], pair=pair, phase=name, lead_s=1.0, window_s=10.0, around=around
    )


def test_only_quiet_tenants_are_in_the_p95_of_a_phase():
    found = phase(0, "B", [0.2] * 20, noisy=[answer(5, ttft_s=9.0)], more=[answer(0.5, tenant="q")])
    assert found.p95_s == pytest.approx(0.2)
    assert (found.quiet.sent, found.noisy.sent) == (20, 1)
    assert list(found.by_tenant) == ["quiet-1"]


def test_a_quiet_tenant_that_is_refused_is_seen():
    found = phase(0, "B", [0.2], more=[refused(6, tenant="quiet-2")])
    assert found.quiet.refusals.outcomes == {"503 overloaded": 1}
    assert found.by_tenant["quiet-2"] is None


def test_fairness_is_the_mean_of_ratios_inside_pairs():
    phases = [
        phase(0, "A", [0.1] * 20), phase(0, "B", [0.2] * 20),
        phase(1, "B", [0.4] * 20), phase(1, "A", [0.8] * 20),
    ]  # fmt: skip
    found = fairness(phases, seed=1).ratio
    assert found.mean == pytest.approx(1.0)
    assert found.rounds == 2
    assert (found.low, found.high) == pytest.approx((0.5, 2.0))


def test_a_pair_of_which_a_phase_served_nobody_does_not_count():
    phases = [
        phase(0, "A", [0.1]), phase(0, "B", []),
        phase(1, "A", [0.1]), phase(1, "B", [0.3]),
    ]  # fmt: skip
    assert fairness(phases, seed=1).ratio.rounds == 1


def test_disturbed_pairs_are_dropped_where_half_are_left():
    busy = replace(AROUND, conditions=BUSY)
    first = [phase(0, "A", [0.5] * 20, around=busy), phase(0, "B", [0.1] * 20)]
    second = [phase(1, "B", [0.3] * 20), phase(1, "A", [0.2] * 20)]
    found = fairness([*first, *second], seed=1)
    assert found.ratio.rounds == 1
    assert found.ratio.mean == pytest.approx(1.5)
    assert (found.disturbed, found.dropped) == (0, 1)


def test_disturbed_pairs_are_used_and_counted_where_too_few_are_left():
    busy = replace(AROUND, conditions=BUSY)
    phases = [phase(0, "A", [0.5] * 20), phase(0, "B", [0.1] * 20, around=busy)]
    found = fairness(phases, seed=1)
    assert (found.ratio.rounds, found.disturbed, found.dropped) == (1, 1, 0)


# What is told.


def finished(steps, phases):
    machine = MachineInfo("CPU", 2, 2**34, "6.1", (0.1, 0.2, 0.3), "abc", {"python": "3.11"})
    return OverloadRun(
        began=datetime(2026, 11, 24, 12, 0, tzinfo=UTC), took_s=600.0,
        command=("python", "-m", "benchmarks.overload"), machine=machine, plan=OverloadPlan(),
        simulation={"step_base_ms": 45.0}, saturation_per_s=20.0, steps=steps, phases=phases,
    )  # fmt: skip


def all_kept():
    steps = [
        step([answer(0)] * 20, share=1.0),
        step([*[answer(0)] * 19, refused(1), refused(2)], share=2.0),
    ]
    return finished(steps, [phase(0, "A", [0.1] * 20), phase(0, "B", [0.12] * 20)])


def verdicts(run):
    rows = [row.strip("| ").split(" | ") for row in markdown(run).splitlines()[2:8]]
    return [row[-1] for row in rows]


def test_goals_that_are_kept_are_said_to_be():
    assert verdicts(all_kept()) == ["kept"] * 6


def test_each_goal_that_is_missed_is_said_to_be():
    steps = [
        step([answer(0)] * 20, share=1.0),
        step([*[answer(0)] * 17, answer(1, error="e"), refused(1, 0.3, None)], share=2.0),
    ]
    more = [refused(5, tenant="quiet-1")]
    phases = [phase(0, "A", [0.1]), phase(0, "B", [0.2], more=more)]
    assert verdicts(finished(steps, phases)) == ["MISSED"] * 6


def test_figures_of_a_disturbed_machine_are_marked():
    run = all_kept()
    disturbed = replace(run.steps[1], around=replace(AROUND, conditions=BUSY))
    phases = [replace(one, around=disturbed.around) for one in run.phases]
    marked = verdicts(replace(run, steps=[run.steps[0], disturbed], phases=phases))
    assert marked[:3] == ["kept (disturbed: 1 of 2)", *["kept (disturbed: 1 of 1)"] * 2]


def test_the_tables_have_a_row_for_each_step_and_phase():
    run = all_kept()
    tables = markdown(run).split("###")
    counts = [sum(line.startswith("| ") for line in part.splitlines()) for part in tables]
    assert counts == [2 + 6, 2 + len(run.steps), 2 + len(run.phases)]
    for part in tables:
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        assert len({row.count("|") for row in rows}) == 1


def test_the_document_has_the_figures_and_what_they_are_read_with(tmp_path):
    document = orjson.loads(write_json(all_kept(), tmp_path).read_bytes())
    assert document["goodput_ratio"] == pytest.approx(0.95)
    assert document["fairness"]["ratio"]["mean"] == pytest.approx(1.2)
    assert document["plan"]["limits"]["ttft_s"] == 2.0
    assert document["steps"][1]["group"]["refusals"]["outcomes"] == {"503 overloaded": 2}
    assert {"machine", "command", "simulation", "phases"} <= document.keys()


# The command.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--slots", "0"], "'0' is not a positive integer"),
        (["--goodput", "ttft"], "'ttft' is not like ttft:500ms"),
    ],
)
def test_a_wrong_option_is_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert reason in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.timeout(600)
def test_overload_costs_a_real_server_neither_its_answers_nor_its_quiet_tenants(tmp_path):
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-overload.json")
    document = orjson.loads(path.read_bytes())
    groups = [one["group"] for one in document["steps"]]
    groups += [one[who] for one in document["phases"] for who in ("quiet", "noisy")]
    assert [group["failures"] for group in groups] == [{}] * len(groups)
    assert sum(group["refusals"]["without_retry_after"] for group in groups) == 0
    assert [one["quiet"]["refusals"]["outcomes"] for one in document["phases"]] == [{}, {}]
    assert document["goodput_ratio"] > 0.7  # The goal is 0.9; this run is short.
