import pytest

from benchmarks.client.ceiling import measure_ceiling

# The engine gives about 300 tokens a second on two cores, for all streams together.
MEASURED_CHUNKS_PER_S = 300


@pytest.mark.full  # A claim about speed: needs a quiet machine.
def test_the_client_can_take_over_ten_times_what_it_measures():
    ceiling = measure_ceiling(requests=16)
    assert ceiling.chunks_per_s > 10 * MEASURED_CHUNKS_PER_S
