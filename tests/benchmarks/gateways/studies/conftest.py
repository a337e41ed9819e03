from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.gateways.arms import UPSTREAM, Setting
from benchmarks.gateways.contenders import Contender, start
from benchmarks.running.pinning import two_cores
from benchmarks.running.ports import free_port
from benchmarks.servers.steps import Pace


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Pace], Contender]]:
    """Start the mock upstream at a pace, as a contender."""
    with ExitStack() as stack:

        def started(pace: Pace) -> Contender:
            setting = Setting(
                pace=pace,
                upstream_port=free_port(),
                directory=tmp_path_factory.mktemp("mock"),
                litellm=Path("none"),
                router=Path("none"),
            )
            return start([UPSTREAM], setting, stack, two_cores())[UPSTREAM]

        yield started
