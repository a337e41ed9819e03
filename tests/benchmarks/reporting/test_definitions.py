"""Latencies of the load client compared with those of `vllm bench serve`'s own code."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import aiohttp
import pytest

from benchmarks.client.endpoint import target_of
from benchmarks.client.load_client import closed_loop, encode_chat
from benchmarks.deployment.step import Limits, figures
from tests.benchmarks.deployment.fake_deployment import FakeDeployment, deployed

FIRST_DELTA_S, GAP_S, TOKENS, REQUESTS = 0.12, 0.02, 6, 5
CLOSE_S = 0.015
"""Tolerance for two clients on a busy machine; different definitions differ by more."""


async def vllms(fake: FakeDeployment) -> Any:
    """Return outputs and metrics of vLLM's client."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.benchmarks.lib.endpoint_request_func import (
            RequestFuncInput,
            async_request_openai_chat_completions,
        )
    request = RequestFuncInput(
        prompt="p", api_url=f"{fake.url}/v1/chat/completions", prompt_len=1, output_len=TOKENS,
        model="m", model_name="m", extra_body={"max_tokens": TOKENS},
    )  # fmt: skip
    async with aiohttp.ClientSession() as session:
        return [
            await async_request_openai_chat_completions(request, session) for _ in range(REQUESTS)
        ]


def ours(fake: FakeDeployment) -> Any:
    target = target_of(fake.url, api_key="")
    chats = [encode_chat(target, "p", max_tokens=TOKENS) for _ in range(REQUESTS)]
    records = asyncio.run(closed_loop(target, chats, streams=1, deadline_s=60))
    return figures(records, max_tokens=TOKENS, limits=Limits(), client_cpu_s=0.0, streams=1)


@pytest.mark.full  # Compares the clocks of two clients: needs a machine that stalls neither.
def test_latencies_are_those_of_vllms_own_client():
    with deployed(first_delta_s=FIRST_DELTA_S, gap_s=GAP_S) as fake:
        outputs = asyncio.run(vllms(fake))
        step = ours(fake)
    assert all(output.success for output in outputs)
    middle = sorted(outputs, key=lambda output: output.latency)[REQUESTS // 2]
    assert step.ttft_s.p50 == pytest.approx(middle.ttft, abs=CLOSE_S)
    assert step.e2e_s.p50 == pytest.approx(middle.latency, abs=CLOSE_S)
    assert step.itl_s.p50 == pytest.approx(sorted(middle.itl)[len(middle.itl) // 2], abs=0.005)
    assert step.itl_s.count == REQUESTS * len(middle.itl)
    # `calculate_metrics` of vllm.benchmarks.serve divides just so.
    theirs = (middle.latency - middle.ttft) / (middle.output_tokens - 1)
    assert step.tpot_s.p50 == pytest.approx(theirs, abs=0.005)
