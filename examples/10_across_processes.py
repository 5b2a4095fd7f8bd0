"""A reservation travels as JSON: held by one process, settled by another, on one SQLite file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fluxai import Governor, Policy, Reservation

with tempfile.TemporaryDirectory() as folder:
    url = f"sqlite:///{Path(folder, 'fluxai.db').as_posix()}"

    with Governor(url) as web:
        web.policies.put(Policy(tenant_id="acme", limit_type="daily", limit_value="5.00"))
        reservation = web.reserve(
            tenant="acme", model="gpt-4o", prompt="Draft a contract.", max_output_tokens=2_000
        )
        message = reservation.to_json()  # goes into the queue, with the job

    with Governor(url) as worker:
        job = Reservation.from_json(message)
        (before,) = worker.budgets("acme")
        print(f"held for the worker: ${before.reserved}")
        response = {
            "model": job.model,
            "usage": {"prompt_tokens": 11, "completion_tokens": 1_640},
        }
        settlement = worker.settle(job, response)
        again = worker.settle(job, response)  # a redelivered message is no second bill
        (after,) = worker.budgets("acme")
        print(f"settled ${settlement.cost}, held ${after.reserved}, left ${after.remaining}")
        print(
            f"the books balance: {worker.verify().ok}; the same event: {again.id == settlement.id}"
        )
