"""What every store has to do, as one pytest class.

A backend of yours passes it by supplying one fixture::

    from fluxai.testing import StorageContract


    class TestMyStore(StorageContract):
        @pytest.fixture
        def storage_url(self, tmp_path):
            return f"mystore:///{tmp_path}/ledger"

or `make_storage`, a fixture that returns a function which opens the store. Each test gets an empty
one; a store that several may open at once (`capabilities.shared`) is opened again by some. Put
`pytest.register_assert_rewrite("fluxai.testing.contract")` before the import to see the values
behind an assertion that failed.
"""

from __future__ import annotations

from fluxai.testing.contract.agreement import Agreement
from fluxai.testing.contract.alerts import Alerts
from fluxai.testing.contract.approvals import Approvals
from fluxai.testing.contract.case import Case
from fluxai.testing.contract.decisions import Decisions
from fluxai.testing.contract.expiry import Expiry
from fluxai.testing.contract.invariants import Invariants
from fluxai.testing.contract.leases import Leases
from fluxai.testing.contract.lifecycle import Lifecycle
from fluxai.testing.contract.limits import Limits
from fluxai.testing.contract.loops import Loops
from fluxai.testing.contract.outputs import Outputs
from fluxai.testing.contract.records import Records
from fluxai.testing.contract.reopening import Reopening
from fluxai.testing.contract.repeats import Repeats
from fluxai.testing.contract.shrinking import Shrinking
from fluxai.testing.contract.tenants import Tenants
from fluxai.testing.contract.verbs import Verbs
from fluxai.testing.contract.windows import Windows


class StorageContract(
    Invariants,
    Lifecycle,
    Repeats,
    Limits,
    Decisions,
    Outputs,
    Shrinking,
    Loops,
    Windows,
    Reopening,
    Expiry,
    Approvals,
    Records,
    Alerts,
    Leases,
    Tenants,
    Verbs,
    Agreement,
):
    """All of it: invariants, lifecycle, limits, windows, expiry, approvals, isolation."""


__all__ = ["Case", "StorageContract"]
