"""Odd responses: whatever a provider sends, the parser returns, and never less than nothing."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.errors import UnknownModel
from fluxai.core.usage import TOKEN_KINDS, Usage
from fluxai.costs import CostEstimator
from tests.unit.costs.test_provider_shapes import ANTHROPIC, BEDROCK, GOOGLE, OPENAI, OTHERS
from tests.unit.costs.test_streams import ANTHROPIC as ANTHROPIC_STREAM
from tests.unit.costs.test_streams import BATCHES, CHAT, GEMINI, REALTIME, RESPONSES

RESPONSES_OF_ALL = [
    *(response for _, response, _ in (*OPENAI, *ANTHROPIC, *GOOGLE, *BEDROCK, *OTHERS)),
    CHAT,
    RESPONSES,
    ANTHROPIC_STREAM,
    GEMINI,
    REALTIME,
    *BATCHES.values(),
]
ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        -0.5,
        1.5,
        10**30,
        -(10**400),
        float("nan"),
        float("inf"),
        "",
        "7",
        "many",
        "1e400",
        "NaN",
        b"\x00",
        [],
        [None],
        {},
        {"total_cost": "nan"},
        [{"modality": [1]}],
    ]
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _paths(item, (*path, index))
    return found


@st.composite
def odd_responses(draw: st.DrawFn) -> Any:
    """Make a response of a known shape with some values that nobody should send."""
    response = copy.deepcopy(draw(st.sampled_from(RESPONSES_OF_ALL)))
    for _ in range(draw(st.integers(1, 4))):
        paths = _paths(response)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        inner = response
        for step in way:
            inner = inner[step]
        if isinstance(inner, dict) and draw(st.integers(0, 4)) == 0:
            del inner[last]
        else:
            inner[last] = draw(ODD)
    return response


@given(odd_responses())
def test_parsing_never_raises_and_never_goes_below_zero(response: Any) -> None:
    """Wrong types, signs and sizes give a usage of whole numbers from zero up."""
    usage = Usage.parse(response)
    for kind in TOKEN_KINDS:
        count = getattr(usage, kind)
        assert type(count) is int
        assert count >= 0
    assert Usage.from_dict(usage.to_dict()) == usage
    for _, part in usage.parts:
        assert part.total >= 0


@given(odd_responses())
def test_pricing_is_a_cost_or_an_unknown_model(response: Any) -> None:
    """A cost is never negative, and never zero without saying why."""
    try:
        cost = CostEstimator().cost(response, model="gpt-4o")
    except UnknownModel:
        return
    assert cost.nanousd >= 0
    assert cost.nanousd or cost.flags
    if "provider_cost" not in cost.flags:
        total = sum(line.amount for line in cost.lines)
        assert 0 <= cost.total - total < 10**-9 + 10**-12


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_anything_is_a_usage(thing: Any) -> None:
    """What is no response at all is parsed too, into nothing."""
    assert Usage.parse(thing).total >= 0


@given(st.binary())
def test_any_bytes_are_a_usage(raw: bytes) -> None:
    """Bytes of audio, images or noise are parsed into nothing."""
    assert Usage.parse(raw).total >= 0
