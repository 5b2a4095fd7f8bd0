"""How many output tokens a call without a cap is granted, under the locks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from fluxai.governor import Governor
from fluxai.testing.contract.case import (
    LARGE,
    SMALL,
    TENANT,
    Case,
    acted,
    budget,
    limit,
    tokens,
)

DEFAULT = 4_096
LEAST = 256


def capless(governor: Governor, input_tokens: int = 0, **request: object) -> int | None:
    """Reserve without a cap; return what was granted, None where the call was refused."""
    held = governor.reserve(
        **{"tenant": TENANT, "model": LARGE, "input_tokens": input_tokens, **request}  # type: ignore[arg-type]
    )
    return held.max_output_tokens if held.allowed else None


class Outputs(Case):
    """At least 256, at most a quarter of the headroom beyond that, at most the default."""

    def test_the_callers_cap_is_taken(self, governor: Governor) -> None:
        """A cap that the caller gives is granted as it is, or the call refused."""
        limit(governor, "1")
        assert tokens(governor, max_output_tokens=7).max_output_tokens == 7
        assert not tokens(governor, max_output_tokens=5_000).allowed

    def test_without_a_limit_the_default_is_granted(self, governor: Governor) -> None:
        """Nothing limits the call, so it gets the default, or what the model can do."""
        assert capless(governor) == DEFAULT

    def test_a_quarter_of_the_headroom_beyond_the_least(self, governor: Governor) -> None:
        """A thousand tokens of room beyond the 256 grant 256 + 250."""
        limit(governor, "1.256")
        assert capless(governor) == LEAST + 250
        assert budget(governor).reserved == Decimal("0.506")

    def test_what_is_held_already_shrinks_the_next_grant(self, governor: Governor) -> None:
        """Callers without a cap share: each takes a quarter of what the others left."""
        limit(governor, "1.256")
        grants = [capless(governor) for _ in range(4)]
        room = 1_256
        for grant in grants:
            expected = LEAST + (room - LEAST) // 4 if room >= LEAST else None
            assert grant == expected
            room -= grant or 0

    def test_the_least_or_nothing(self, governor: Governor) -> None:
        """Where 256 tokens fit exactly they are granted; one token less is refused."""
        limit(governor, "0.266")
        assert capless(governor, 10) == LEAST
        limit(governor, "0.531")
        refused = governor.reserve(tenant=TENANT, model=LARGE, input_tokens=10)
        assert acted(refused) == "limit"
        assert refused.counter_offer is not None
        assert refused.counter_offer.max_output_tokens == 255

    def test_the_tightest_limit_of_money_or_tokens_counts(self, governor: Governor) -> None:
        """Money and tokens both bound the grant; limits that only report do not."""
        limit(governor, "100", id="money")
        limit(governor, "1356", id="tokens", measure="tokens")
        limit(governor, "0.001", id="report", decision="allow")
        assert capless(governor, 100) == LEAST + 250

    def test_a_limit_per_request_bounds_the_grant(self, governor: Governor) -> None:
        """A per-request limit leaves room for the call's own input."""
        limit(governor, "1", limit_type="per_request")
        assert capless(governor, 344) == LEAST + 100

    def test_the_fallback_is_granted_by_its_own_price(self, governor: Governor) -> None:
        """After a downgrade the grant is worked out again, at the fallback's price."""
        limit(governor, "0.10", id="move", decision="downgrade", fallback_tool_id=SMALL)
        limit(governor, "0.628", id="stop")
        held = governor.reserve(tenant=TENANT, model=LARGE, input_tokens=0)
        assert (held.model, held.max_output_tokens) == (SMALL, LEAST + 250)

    def test_many_threads_without_caps_stay_within_the_limit(self, governor: Governor) -> None:
        """Grants made at the same moment never add up to more than the limit."""
        limit(governor, "3")
        with ThreadPoolExecutor(16) as pool:
            grants = list(pool.map(lambda _: capless(governor, 10), range(32)))
        held = sum((grant + 10) for grant in grants if grant is not None)
        assert budget(governor).reserved == Decimal(held) / 1000 <= 3
        assert 3_000 - held < LEAST + 10
