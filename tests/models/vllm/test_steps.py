"""Outputs of several tokens are taken apart as if each had come alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from vllm.outputs import CompletionOutput

from models.vllm.steps import Step, Steps
from tests.models.vllm.scripted_chat import BYTES, WORDS, Script

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}"),
    min_size=1,
)


async def steps_of(script: Script, interval: int) -> list[Step]:
    steps = Steps(BYTES, skip_special_tokens=False)
    return [
        step async for result in script.outputs(interval) for step in steps.of(result.outputs[0])
    ]


@given(TEXTS, st.integers(2, 70))
async def test_tokens_have_the_text_that_they_have_alone(text: str, interval: int) -> None:
    script = Script(text, BYTES)
    assert await steps_of(script, interval) == await steps_of(script, 1)


@given(TEXTS, st.integers(2, 70), st.integers(0, 20))
async def test_steps_together_are_the_output(text: str, interval: int, begin: int) -> None:
    script = Script(text, BYTES, stop=text[begin : begin + 2] or None)
    together, alone = await steps_of(script, interval), await steps_of(script, 1)
    assert "".join(step.text for step in together) == "".join(step.text for step in alone)
    assert [step.ids for step in together] == [step.ids for step in alone]


def test_output_of_text_only_is_one_step() -> None:
    output = CompletionOutput(0, "rest", [], None, None)
    assert list(Steps(WORDS, skip_special_tokens=False).of(output)) == [Step("rest", [], None)]


def test_output_of_nothing_is_no_step() -> None:
    output = CompletionOutput(0, "", [], None, None)
    assert list(Steps(WORDS, skip_special_tokens=False).of(output)) == []
