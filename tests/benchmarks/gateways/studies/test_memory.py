from benchmarks.gateways.studies.memory import growth
from benchmarks.servers.steps import Pace


def test_memory_is_read_before_and_after_the_requests(mock):
    outcome = growth(mock(Pace()), requests=200)
    assert outcome.failure is None
    assert outcome.values["gateway_mib"] == 0
    assert outcome.values["gateway_growth_mib"] == 0
    assert outcome.values["path_growth_mib"] != 0
