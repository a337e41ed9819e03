"""Models without an engine are detected soon, and unknown states count as ready."""

from __future__ import annotations

import pytest

from serving.domain.model_state import ModelState, Readiness
from serving.ray_cluster.engine_watch import EngineWatch
from tests.serving.live import eventually


class States(Readiness):
    """States that can be changed."""

    def __init__(self, **states: ModelState) -> None:
        self.states = states

    async def __call__(self) -> dict[str, ModelState]:
        return self.states


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        (ModelState("ready"), True),
        (ModelState("loading", "the model is being loaded"), False),
        (ModelState("failed"), False),
        (ModelState("loading", "the controller does not answer", known=False), True),
    ],
)
async def test_model_is_ready_unless_it_is_known_not_to_be(
    state: ModelState, *, ready: bool
) -> None:
    watch = EngineWatch(States(m=state))
    assert watch.ready("m")
    assert await watch() == {"m": state}
    assert (watch.ready("m"), watch.ready("another")) == (ready, True)


async def test_watch_sees_what_changes_until_it_is_closed() -> None:
    states = States(m=ModelState("ready"))
    watch = EngineWatch(states, every_s=0.01)
    watch.loop.start()
    states.states = {"m": ModelState("loading")}
    assert await eventually(lambda: not watch.ready("m"))
    await watch.loop.close()
