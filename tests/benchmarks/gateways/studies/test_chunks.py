from benchmarks.gateways.studies.chunks import CHUNK_CPU, GROWTH, chunk_cpu, growth


def test_a_chunk_of_the_mock_costs_the_path_and_no_gateway(mock):
    outcome = chunk_cpu(mock(CHUNK_CPU.pace), window_s=2.0, idle_s=0.1)
    assert outcome.failure is None
    assert outcome.values["chunks_per_s"] > 0
    assert outcome.values["gateway_us"] == 0
    assert outcome.values["path_us"] > 0


def test_the_tokens_of_all_streams_are_as_many_whatever_the_streams(mock):
    outcome = growth(mock(GROWTH.pace), many=100, window_s=0.5)
    assert outcome.failure is None
    assert outcome.values["chunks_per_s_many"] > 0
    # Nothing stands between client and mock, so there is no gateway to grow.
    assert "growth" not in outcome.values
