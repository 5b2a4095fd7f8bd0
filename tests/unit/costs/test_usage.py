"""`Usage`: a partition that keeps its counts honest."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.usage import DETAIL_OF, INPUT_KINDS, MAX_COUNT, OUTPUT_KINDS, TOKEN_KINDS, Usage

counts = st.integers(0, 10**9)
usages = st.builds(
    Usage,
    **dict.fromkeys(TOKEN_KINDS, counts),
    details=st.dictionaries(st.sampled_from(sorted(DETAIL_OF)), counts),
    requests=st.dictionaries(st.sampled_from(["web_search", "page", "image"]), counts),
    seconds=st.one_of(counts, st.decimals(0, 10**6, places=3)),
    characters=counts,
    provider_cost=st.one_of(st.none(), st.decimals(0, 10**6, places=9)),
    flags=st.lists(st.sampled_from(["clamped", "byok"]), unique=True).map(tuple),
)


def test_kinds_are_one_partition() -> None:
    """Every kind of token is either input or output, and none is both."""
    assert sorted(INPUT_KINDS + OUTPUT_KINDS) == sorted(TOKEN_KINDS)


@given(usages)
def test_total_is_the_sum_of_the_partition(usage: Usage) -> None:
    """The total counts each kind once, and details not again."""
    assert usage.total == sum(getattr(usage, kind) for kind in TOKEN_KINDS)
    assert usage.total == usage.input_total + usage.output_total
    assert usage.cache_write == usage.cache_write_5m + usage.cache_write_1h


@given(usages)
def test_json_keeps_everything(usage: Usage) -> None:
    """What is written as JSON is read back equal, so a ledger row says what was used."""
    assert Usage.from_dict(json.loads(json.dumps(usage.to_dict()))) == usage


@given(usages, usages)
def test_sum_of_two_calls(one: Usage, two: Usage) -> None:
    """Adding usages adds every quantity, so that totals over calls are right."""
    both = one + two
    assert both.total == one.total + two.total
    assert both.seconds == one.seconds + two.seconds
    for kind in {*one.requests, *two.requests}:
        assert both.requests[kind] == one.requests.get(kind, 0) + two.requests.get(kind, 0)
    assert Usage.from_dict(both.to_dict()) == both


def test_zeros_are_left_out() -> None:
    """An almost empty usage takes almost no room in a row."""
    assert Usage(input=3).to_dict() == {"input": 3}
    assert Usage().to_dict() == {}


def test_parts_travel_too() -> None:
    """The passes of one call, with the models that made them, survive the ledger."""
    usage = Usage(input=5, parts=((None, Usage(input=3)), ("other", Usage(input=2))))
    assert Usage.from_dict(json.loads(json.dumps(usage.to_dict()))) == usage


@pytest.mark.parametrize("bad", [-1, 1.0, True, float("nan"), "7", None, MAX_COUNT + 1])
@pytest.mark.parametrize("field", ["input", "reasoning", "characters"])
def test_wrong_counts_are_refused_by_name(field: str, bad: Any) -> None:
    """A count that is none is refused with the field's name, not priced."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        Usage(**{field: bad})


def test_wrong_quantities_are_refused_by_name() -> None:
    """Fees, seconds, details and stated costs are checked like counts."""
    with pytest.raises(ValueError, match=r"^requests\['web_search'\]: "):
        Usage(requests={"web_search": -1})
    with pytest.raises(ValueError, match=r"^seconds: "):
        Usage(seconds=Decimal("NaN"))
    with pytest.raises(ValueError, match=r"^details: "):
        Usage(details={"smell_in": 1})
    with pytest.raises(ValueError, match=r"^provider_cost: "):
        Usage(provider_cost=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^provider_cost: "):
        Usage(provider_cost="much")
    with pytest.raises(ValueError, match=r"^tokens: "):
        Usage.from_dict({"tokens": 3})


def test_equality_is_by_value() -> None:
    """Two usages with the same counts are the same, also as keys."""
    assert Usage(input=1, output=2) == Usage(output=2, input=1)
    assert hash(Usage(input=1)) == hash(Usage(input=1))
    assert Usage(input=1) != Usage(input=2)
    assert Usage(input=1) != 1
    assert repr(Usage(input=1, flags=("clamped",))) == "Usage(input=1, flags=['clamped'])"


def test_cost_text_and_int_become_decimal() -> None:
    """A stated cost is exact, however it is written."""
    assert Usage(provider_cost="0.1").provider_cost == Decimal("0.1")
    assert Usage(provider_cost=2).provider_cost == Decimal(2)
