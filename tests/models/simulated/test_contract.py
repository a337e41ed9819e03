from __future__ import annotations

import pytest

from models.simulated.engine import SimulatedEngine
from tests.models.engine_contract import EngineContract, Subject
from tests.models.simulated.specs import MOST_OPEN, SLOTS, SPEC


class TestSimulatedEngine(EngineContract):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(
            SimulatedEngine(SPEC),
            model=SPEC.id,
            context_tokens=SPEC.context_tokens or 0,
            slots=SLOTS,
            most_open=MOST_OPEN,
            has_logprobs=False,
        )
