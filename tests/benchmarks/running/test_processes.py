import signal
import socket
import subprocess
import sys

import psutil
import pytest

from benchmarks.running.arms import HOST, Arm
from benchmarks.running.machine import process_tree, tree_cpu_s, tree_pss_bytes
from benchmarks.running.ports import free_port
from benchmarks.running.processes import ServerError, running

# A real server with the habits that make servers hard to stop. Of its children the first ignores
# SIGTERM and is known by descent alone (session and environment of its own), the second is an
# orphan known by its session alone, the third an orphan known by its environment alone.
SERVER = """
import http.server, signal, subprocess, sys
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", stubborn], env={}, start_new_session=True)
orphan = sys.executable + " -c 'import time; time.sleep(600)' &"
subprocess.Popen(["/bin/sh", "-c", "env -i " + orphan]).wait()
subprocess.Popen(["/bin/sh", "-c", "setsid " + orphan]).wait()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
if %(ignores_term)s:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def fake_arm(*, ignores_term=False, ready_path="/ready"):
    port = free_port()
    code = SERVER.replace("%(ignores_term)s", str(ignores_term))
    return Arm(
        name="fake",
        command=(sys.executable, "-c", code, str(port)),
        port=port,
        ready_path=ready_path,
    )


def alive(pids):
    """Return the running processes. A zombie waits for its parent, which may be pid 1, and does not
    count."""
    left = [process for process in psutil.process_iter(["status"]) if process.pid in pids]
    return [process for process in left if process.info["status"] != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("ignores_term", [False, True])
def test_a_server_is_ready_inside_the_block_and_gone_after_it(tmp_path, ignores_term):
    arm = fake_arm(ignores_term=ignores_term)
    with running(arm, log_dir=tmp_path, stop_deadline_s=4) as server:
        pids = server.pids()
    assert len(pids) == 4
    assert alive(pids) == []


def test_a_server_is_stopped_when_the_block_fails(tmp_path):
    pids = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with running(fake_arm(), log_dir=tmp_path) as server:
            pids += server.pids()
            raise KeyboardInterrupt
    assert pids
    assert alive(pids) == []


def test_a_server_that_ends_at_its_start_is_an_error_that_names_its_log(tmp_path):
    arm = Arm(
        name="fake", command=(sys.executable, "-c", "exit(3)"), port=free_port(), ready_path="/"
    )
    with pytest.raises(ServerError, match=r"ended with 3 during its start: .*fake\.log"):
        running(arm, log_dir=tmp_path).__enter__()


def test_a_server_that_is_never_ready_is_an_error_and_gone(tmp_path):
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ServerError, match="not ready within 2 s"):
        running(fake_arm(ready_path="/never"), log_dir=tmp_path, ready_deadline_s=2).__enter__()
    assert set() == set(psutil.Process().children(recursive=True)) - before


def test_a_server_is_told_where_the_models_may_not_come_from(tmp_path):
    arm = Arm(
        name="fake",
        command=(sys.executable, "-c", "import os; print(os.environ); exit(1)"),
        port=free_port(),
        ready_path="/",
        environment={"OF_THE_ARM": "1"},
    )
    with pytest.raises(ServerError):
        running(arm, log_dir=tmp_path).__enter__()
    told = (tmp_path / "fake.log").read_text()
    assert "'HF_HUB_OFFLINE': '1'" in told
    assert "'OF_THE_ARM': '1'" in told


def test_a_frozen_server_uses_no_cpu_and_answers_again_once_thawed(tmp_path):
    arm = fake_arm()
    with running(arm, log_dir=tmp_path) as server:
        server.freeze()
        statuses = {psutil.Process(pid).status() for pid in server.pids()}
        server.thaw()
        with socket.create_connection((HOST, arm.port), timeout=60) as connection:
            connection.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            answer = connection.recv(100)
    assert statuses <= {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
    assert answer.startswith(b"HTTP/1.0 200")


def test_a_frozen_server_can_be_stopped(tmp_path):
    with running(fake_arm(), log_dir=tmp_path, stop_deadline_s=3600) as server:
        server.freeze()
        pids = server.pids()
    # A frozen process takes no SIGTERM: unthawed, it would live until the deadline.
    assert alive(pids) == []


def test_memory_and_cpu_are_those_of_the_whole_tree(tmp_path):
    with running(fake_arm(), log_dir=tmp_path) as server:
        pids = server.pids()
        tree = (tree_pss_bytes([server.pid]), tree_cpu_s([server.pid]))
        everything = (tree_pss_bytes(pids), tree_cpu_s(pids))
    assert 0 < tree[0] < everything[0]
    assert 0 < tree[1] <= everything[1]


def test_an_ended_process_uses_nothing():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(10)
    gone = ended.pid
    assert (tree_pss_bytes([gone]), tree_cpu_s([gone])) == (0, 0.0)


def test_a_signal_while_a_server_is_stopped_does_not_leave_it(tmp_path):
    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    def run():
        with running(fake_arm(ignores_term=True), log_dir=tmp_path, stop_deadline_s=20) as server:
            members.update(process.pid for process in process_tree(server.pids()))
            signal.setitimer(signal.ITIMER_REAL, 0.5)  # In the 20 s that the stop waits.

    members: set[int] = set()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert members
    assert alive(members) == []
