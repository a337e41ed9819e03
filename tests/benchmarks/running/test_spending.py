import sys
from time import process_time, sleep

import psutil
import pytest

from benchmarks.running.arms import Arm
from benchmarks.running.pinning import Cores
from benchmarks.running.ports import free_port
from benchmarks.running.processes import running
from benchmarks.running.spending import Watched, read, spent, watched

# A server with a process of its own that stands for the upstream.
SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # ::Eng" + "ine::"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler
).serve_forever()
"""
CORES = Cores(client=0, gateway=0)
TICK_S = 0.02
"""By how much CPU times may be off that the kernel counts in hundredths of a second."""


def burn(cpu_s):
    end_s = process_time() + cpu_s
    while process_time() < end_s:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = free_port()
    command = (sys.executable, "-c", SERVER, str(port))
    arm = Arm(name="x", command=command, port=port, ready_path="/", engine_title="# ::Engine::")
    with running(arm, log_dir=tmp_path_factory.mktemp("logs")) as server:
        sleep(0.5)
        yield server


def test_a_process_that_stands_for_the_upstream_is_told_by_its_title(server):
    path = watched(server, None, CORES)
    assert [process.pid for process in path.gateway] == [server.pid]
    assert len(path.upstream) == 1


def test_with_a_mock_behind_it_every_process_is_the_gateways(server):
    path = watched(server, server, CORES)
    assert (len(path.gateway), len(path.upstream)) == (2, 2)


def test_cpu_is_charged_to_whose_it_is():
    here = psutil.Process()
    path = Watched(gateway=[here], upstream=[], cores=CORES)
    began_s, before = process_time(), read(path)
    burn(0.3)
    used = spent(before, read(path))
    assert 0.25 <= used.gateway_s <= process_time() - began_s + TICK_S
    assert used.upstream_s == 0
    assert 0.25 <= used.client_s <= process_time() - began_s + TICK_S
    assert used.wall_s >= 0.3
    assert 0 <= used.client_core_share <= 1.01  # The burning may be on another core.
