from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.running.arms import Arm
from benchmarks.running.machine import Conditions, describe
from benchmarks.running.measure import MeasurementError
from benchmarks.running.ports import free_port
from benchmarks.startup.command import started
from benchmarks.startup.report import StartupRun, markdown, write_json
from benchmarks.startup.starts import Part, Start, part_name, phases

QUIET = Conditions(steal_share=0.0, foreign_share=0.02)
DISTURBED = Conditions(steal_share=0.0, foreign_share=0.4)

LOG = """... Starting Ray
ok  Starting Ray                                   16.2 s
... Deploying the application
ok  Deploying the application                       9.6 s
    smollm2-135m-instruct: computes in float32
no  Loading smollm2-135m-instruct                  61.6 s
"""

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(int(sys.argv[2]))
        self.end_headers()

print("ok  Starting Ray                                   16.2 s", flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


def server(status: int) -> Arm:
    port = free_port()
    return Arm(
        name="stand-in",
        command=(sys.executable, "-c", SERVER, str(port), str(status)),
        port=port,
        ready_path="/ready",
    )


def run_of(*starts: Start) -> StartupRun:
    return StartupRun(
        began=datetime(2026, 11, 29, 14, 5, tzinfo=UTC),
        took_s=60,
        command=("python", "-m", "benchmarks.startup"),
        machine=describe(Path(__file__).parents[3]),
        starts=starts,
    )


def start(answered_s: float, ray_s: float, *parts: Part, seen: Conditions = QUIET) -> Start:
    return Start(answered_s, [("Starting Ray", ray_s)], parts, seen)


def test_phases_are_those_that_ended_well() -> None:
    assert phases(LOG) == [("Starting Ray", 16.2), ("Deploying the application", 9.6)]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("ray::ServeReplica:ringfence:Engine:smollm2-135m-instruct", "engine's replica"),
        ("VLLM::EngineCore", "vLLM's engine core"),
        ("ray::IDLE", "Ray's agents and idle workers"),
        ("/x/python -m serving.cli serve --port 1", "ringfence serve"),
        ("/x/raylet --raylet_socket_name=/tmp", "Ray's GCS and raylet"),
        ("/bin/true", "other"),
    ],
)
def test_process_is_named_by_its_title(title: str, name: str) -> None:
    assert part_name(title) == name


def test_tables_have_medians_over_starts() -> None:
    run = run_of(
        start(40, 10, Part("gateway", 12, 2), Part("gateway", 14, 3)),
        start(30, 8, Part("gateway", 10, 4)),
        start(50, 12, Part("gateway", 11, 9), seen=DISTURBED),
    )
    text = markdown(run)
    assert "| start to first answer, s | 40.0 | 30.0 | 50.0 |" in text
    assert "| Starting Ray | 10.0 |" in text
    assert "| gateway | 11.0 | 5.0 |" in text
    assert "disturbed: 1; others used up to 40% of the machine" in text


def test_json_keeps_every_start(tmp_path: Path) -> None:
    path = write_json(run_of(start(40, 10), start(30, 8)), tmp_path)
    assert path.name == "2026-11-29T1405-startup.json"
    assert path.read_text().count('"answered_s"') == 2


def test_start_has_the_answer_the_phases_and_the_processes(tmp_path: Path) -> None:
    measured = started(server(200), tmp_path)
    assert measured.phases == [("Starting Ray", 16.2)]
    assert [part.name for part in measured.parts] == ["other"]
    assert measured.cpu_s > 0
    assert measured.parts[0].began_s < measured.answered_s


def test_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="stand-in answered 503"):
        started(server(503), tmp_path)
