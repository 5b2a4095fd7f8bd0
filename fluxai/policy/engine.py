"""`PolicyEngine`: the ledger's rule, applied to balances that somebody hands in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fluxai.core.ledger import Balances, CounterKey, Need, Plan, Verdict, judge

#: What a counter holds: (settled, reserved).
BalanceReader = Callable[[CounterKey], tuple[int, int]]


class PolicyEngine:
    """Judge requests by the same rule that storage applies under its locks."""

    def judge(
        self,
        plan: Plan,
        needs: Sequence[Need],
        balances: Mapping[CounterKey, tuple[int, int]] | BalanceReader,
    ) -> Verdict:
        """Judge a compiled plan.

        Args:
            plan: What has to be checked.
            needs: What the request needs of each candidate.
            balances: (settled, reserved) per counter, as a mapping (missing: empty) or a function.
        """
        read = balances if callable(balances) else lambda key: balances.get(key, (0, 0))
        seen: dict[int, Balances] = {}
        for candidate in plan.candidates:
            found = [read(key) for key, _ in candidate.keys]
            seen[candidate.index] = (
                [settled + reserved for settled, reserved in found],
                [settled for settled, _ in found],
            )
        return judge(plan, needs, seen)
