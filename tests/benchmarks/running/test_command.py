import signal
import subprocess
import sys

import pytest

STOPPING = """
import time
from benchmarks.running.command import carry_out

def work():
    try:
        print("working", flush=True)
        time.sleep(30)
    finally:
        print("stopping", flush=True)
        time.sleep(0.5)
        print("stopped", flush=True)

raise SystemExit(carry_out("module", work, log=None))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_keep_servers_from_ending(number):
    command = [sys.executable, "-c", STOPPING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(number)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(10) == 130
