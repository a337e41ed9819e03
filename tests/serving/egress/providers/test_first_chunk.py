from __future__ import annotations

from typing import Any

import pytest

from serving.egress.providers.first_chunk import Beginning


def chunk(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0} | choice]}


ROLE = chunk(delta={"role": "assistant", "content": ""}, finish_reason=None)


@pytest.mark.parametrize(
    "first",
    [
        chunk(delta={"content": "x"}),
        chunk(delta={"reasoning_content": "x"}),
        chunk(delta={"refusal": "x"}),
        chunk(delta={"tool_calls": [{"index": 0}]}),
        chunk(text="x"),
        chunk(delta={}, finish_reason="stop"),
    ],
)
def test_beginning_is_held_back_until_something_is_said(first: dict[str, Any]) -> None:
    beginning = Beginning()

    assert beginning.passed(ROLE) == []
    assert beginning.passed(chunk(delta={}, text="")) == []
    assert beginning.passed(first) == [ROLE, chunk(delta={}, text=""), first]
    assert beginning.passed(ROLE) == [ROLE]
