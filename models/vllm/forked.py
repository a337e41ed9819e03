"""vLLM's engine core as a fork of its replica: what the replica has imported is not imported again.

vLLM starts it anew inside Ray actors, ten seconds of CPU for the same imports, because an engine
core may want to use Ray itself. With the one worker in its own process it never does. The child
must not touch what it inherits from Ray: its connections, by which Ray notices that a replica is
dead, and its signal handlers.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterable
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any

TITLE = "VLLM::EngineCore"
"""As vLLM calls the process."""

STANDARD = 3
"""File descriptors below this one are standard input, output and error."""


class EngineCoreProcess(ForkProcess):
    """Leaves the replica's connections and handlers before it runs."""

    def run(self) -> None:
        """Run vLLM's engine core. Called by `multiprocessing` in the child."""
        _default_signals()
        _own_title_and_output()
        let_go_of_sockets(_open_files())
        _set_up_libraries()
        super().run()


class EngineCoreContext(ForkContext):
    """What vLLM takes processes from."""

    Process = EngineCoreProcess


def let_go_of_sockets(descriptors: Iterable[int]) -> None:
    """Disconnect inherited sockets, so that the other end notices when the replica dies.

    Their numbers stay taken: an object of the replica may still close its own later on.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in descriptors:
            if descriptor >= STANDARD and descriptor != nothing and _is_socket(descriptor):
                os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _open_files() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def _default_signals() -> None:
    """Take no part in the replica's event loop, and end when asked to until vLLM has a handler."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _own_title_and_output() -> None:
    """Be no `ray::ServeReplica` for whoever lists processes, and write where vLLM's log goes."""
    import ray  # noqa: PLC0415

    # The library that vLLM uses has no effect on a title that Ray has set.
    ray._raylet.setproctitle(TITLE)  # noqa: SLF001
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _set_up_libraries() -> None:
    """What a new process would have read from its environment."""
    import torch  # noqa: PLC0415
    from vllm import logger  # noqa: PLC0415

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    logger._configure_vllm_root_logger()  # noqa: SLF001


def fork_context(*_: Any) -> EngineCoreContext:
    """The context, in the place of vLLM's `get_mp_context`."""
    return EngineCoreContext()
