"""vLLM's refusals in our words, from what vLLM itself raises."""

from __future__ import annotations

import pytest
from vllm.exceptions import VLLMError
from vllm.sampling_params import SamplingParams

from models.engine import RequestRejected
from models.vllm.errors import failure


@pytest.mark.parametrize(
    ("n", "temperature", "message"),
    [
        (2, 0.0, "n must be 1 when using greedy sampling, got 2."),
        (10**6, 1.0, "n must be at most 16384, got 1000000."),
    ],
)
def test_refused_number_of_choices_is_told_with_its_field(
    n: int, temperature: float, message: str
) -> None:
    with pytest.raises((VLLMError, ValueError)) as caught:
        SamplingParams(n=n, temperature=temperature)
    told = failure(caught.value)
    assert (told.error, told.message, told.param) == (RequestRejected, message, "n")
