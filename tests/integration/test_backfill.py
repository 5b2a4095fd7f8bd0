"""`fluxai backfill`: past calls into the ledger, each once, at its own time."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai import CostEstimator, Governor, Policy
from fluxai.cli.importing import import_lines
from fluxai.core.ledger import Subject
from tests.integration.command_line import Ran, run, url

OPENAI: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_740_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {
        "prompt_tokens": 1_200,
        "completion_tokens": 300,
        "total_tokens": 1_500,
        "prompt_tokens_details": {"cached_tokens": 1_000},
    },
}
ANTHROPIC: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [],
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 5_000, "output_tokens": 20},
}
GEMINI: dict[str, Any] = {
    "candidates": [],
    "modelVersion": "gemini-2.5-flash",
    "responseId": "abc",
    "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 50, "totalTokenCount": 150},
}
STREAM: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_2",
            "type": "message",
            "model": "claude-sonnet-4-5",
            "usage": {"input_tokens": 25, "output_tokens": 1},
        },
    },
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
]
MAY_DAY = datetime(2025, 5, 1, 12, tzinfo=UTC)
BATCH_LINE: dict[str, Any] = {
    "id": "batch_req_1",
    "custom_id": "request-1",
    "response": {"status_code": 200, "body": OPENAI},
    "error": None,
}


def lines_file(folder: Path, *lines: object, name: str = "calls.jsonl") -> Path:
    """Write lines as a file: text as it is, everything else as JSON."""
    path = folder / name
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def backfilled(path: Path | str, folder: Path, *options: str) -> Ran:
    """Run the command on a ledger in a folder; return its document."""
    return run("backfill", path, "--db", url(folder), "--tenant", "acme", "--json", *options)


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz", "calls"])
def test_calls_are_recorded_once_at_their_own_time(name: str, tmp_path: Path) -> None:
    """Plain or gzip, a second run adds nothing, and each event stands at the time of its call."""
    at = datetime(2025, 11, 3, 14, 30, tzinfo=UTC)
    wrapped = {"id": "mine", "provider": "openai", "timestamp": at.isoformat(), "response": OPENAI}
    path = lines_file(tmp_path, wrapped, ANTHROPIC, "", GEMINI, STREAM, BATCH_LINE, name=name)
    first = backfilled(path, tmp_path)
    assert first.code == 0
    assert (first.document["lines"], first.document["recorded"]) == (5, 5)
    again = backfilled(path, tmp_path)
    assert (again.document["recorded"], again.document["already_recorded"]) == (0, 5)
    assert again.document["total"] == first.document["total"]
    with Governor(url(tmp_path)) as governor:
        events = {event.id: event for event in governor.events(tenant="acme")}
        assert len(events) == 5
        assert events["mine"].counted_at == at
        assert events["mine"].cost == CostEstimator().cost(OPENAI, at=at).total
        assert events["mine"].usage is not None
        assert events["mine"].usage.cache_read == 1_000
        assert events["request-1"].cost == CostEstimator().cost([BATCH_LINE]).total
        assert "undated" in events["msg_1"].flags
        assert sum(event.cost for event in events.values()) == Decimal(
            first.document["total"]["cost"]
        )
        assert governor.verify().ok


@pytest.mark.parametrize(
    ("line", "cost_of"),
    [
        (OPENAI, OPENAI),
        (STREAM, STREAM),
        ({"response": OPENAI}, OPENAI),
        ({"response": json.dumps(OPENAI)}, OPENAI),
        ({"stream": STREAM}, STREAM),
        ({"chunks": STREAM}, STREAM),
        ({"stream": {"chunks": [{"i": at, "data": c} for at, c in enumerate(STREAM)]}}, STREAM),
        ({"model": "gpt-4o-2024-08-06", "usage": OPENAI["usage"]}, OPENAI),
        ({"model": "gemini-2.5-flash", "usage": GEMINI["usageMetadata"]}, GEMINI),
        ({"request": {"model": "claude-sonnet-4-5"}, "usage": ANTHROPIC["usage"]}, ANTHROPIC),
        ({"endpoint": "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse",
          "response": {"usage": {"inputTokens": 9, "outputTokens": 8, "totalTokens": 17}}}, None),
        (BATCH_LINE, [BATCH_LINE]),
        ({"type": "response.done", "response": {**OPENAI, "object": "realtime.response"}}, OPENAI),
    ],
)  # fmt: skip
def test_a_response_is_found_wherever_a_line_holds_it(
    line: object, cost_of: object, tmp_path: Path
) -> None:
    """Raw responses, wrappers, streams and lines of batches are priced as `CostEstimator` does."""
    document = backfilled(lines_file(tmp_path, line), tmp_path).document
    assert document["recorded"] == 1, document["reasons"]
    cost = Decimal(document["total"]["cost"])
    assert cost == CostEstimator().cost(cost_of).total if cost_of is not None else cost > 0


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ({"timestamp": "2025-05-01T12:00:00Z"}, MAY_DAY),
        ({"timestamp": "2025-05-01T12:00:00"}, MAY_DAY),
        ({"at": "2025-05-01T12:00:00+02:00"}, datetime(2025, 5, 1, 10, tzinfo=UTC)),
        ({"created": 1_746_100_800}, MAY_DAY),
        ({"time": 1_746_100_800_000}, MAY_DAY),
        ({"headers": {"date": "Thu, 01 May 2025 12:00:00 GMT"}}, MAY_DAY),
        ({}, datetime(2025, 2, 19, 21, 20, tzinfo=UTC)),
        ({"timestamp": "yesterday", "created": True}, datetime(2025, 2, 19, 21, 20, tzinfo=UTC)),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, datetime(2025, 2, 19, 21, 20, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_the_time_of_a_call(said: dict[str, Any], moment: datetime, tmp_path: Path) -> None:
    """Times are read in the forms logs have; without one the response's own time counts."""
    backfilled(lines_file(tmp_path, {"response": OPENAI, **said}), tmp_path)
    with Governor(url(tmp_path)) as governor:
        (event,) = governor.events()
        assert event.counted_at == moment
        assert "undated" not in event.flags


def test_calls_without_a_time_are_put_where_the_user_says(tmp_path: Path) -> None:
    """Undated calls need not weigh on today's budgets; a time in the future is wrong usage."""
    path = lines_file(tmp_path, ANTHROPIC, OPENAI)
    assert backfilled(path, tmp_path, "--at", "2999-01-01").code == 2
    assert backfilled(path, tmp_path, "--at", "someday").code == 2
    assert backfilled(path, tmp_path, "--at", "2025-05-01T12:00").code == 0
    with Governor(url(tmp_path)) as governor:
        events = {event.id: event for event in governor.events()}
        assert events["msg_1"].counted_at == MAY_DAY
        assert "undated" in events["msg_1"].flags
        assert events["chatcmpl-1"].counted_at != MAY_DAY


def test_bad_lines_are_counted_by_reason_and_stop_nothing(tmp_path: Path) -> None:
    """Each line that can't be priced is counted with its reason and place; the others go in."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    path = lines_file(
        tmp_path,
        OPENAI,
        "{this is not JSON",
        "42",
        {"response": {"model": "gpt-4o", "choices": []}},
        {"status": 429, "response": {"error": {"message": "slow down"}}},
        {"error": {"message": "bad request", "type": "invalid_request_error"}},
        {"response": {**OPENAI, "model": "gpt-17-ultra"}, "model": "gpt-17-ultra"},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
        {"model": "claude-sonnet-4-5", "response": {"input_tokens": 12}},
        {"response": OPENAI, "timestamp": tomorrow},
        {**OPENAI, "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"provider": "openrouter", "response": {"model": "x/y", "usage": {
            "prompt_tokens": 1, "completion_tokens": 1, "cost": 10**11}}},
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1") + "{}",
        "[" * 100_000,
        ANTHROPIC,
    )  # fmt: skip
    shown = backfilled(path, tmp_path)
    assert shown.code == 0
    document = shown.document
    assert document["recorded"] == 2
    reasons = {
        name: (row["count"], row["first_lines"]) for name, row in document["reasons"].items()
    }
    assert reasons == {
        "not_json": (3, [2, 13, 14]),
        "not_a_response": (1, [3]),
        "no_usage": (1, [4]),
        "error_status": (2, [5, 6]),
        "unknown_model": (1, [7]),
        "no_model": (1, [8]),
        "token_count": (1, [9]),
        "future": (1, [10]),
        "conflict": (1, [11]),
        "absurd": (1, [12]),
    }
    assert document["not_priced"] == 13
    assert document["reasons"]["unknown_model"]["details"] == {"gpt-17-ultra": 1}


def test_what_is_no_json_at_all_is_an_error(tmp_path: Path) -> None:
    """Another kind of file is told apart from one with a few bad lines."""
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary,\nnothing was spent today.\n", encoding="utf-8")
    shown = backfilled(path, tmp_path)
    assert shown.code == 1
    assert shown.document["reasons"]["not_json"]["count"] == 2


def test_a_cut_off_archive_keeps_what_came_before(tmp_path: Path) -> None:
    """Damage is said, and the calls before it are recorded; the whole file then adds the rest."""
    lines = [{**OPENAI, "id": f"call-{number}"} for number in range(3_000)]
    whole = lines_file(tmp_path, *lines, name="calls.gz")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shown = backfilled(cut, tmp_path)
    assert shown.code == 1
    assert "breaks off after line" in shown.document["damaged"]
    before = shown.document["recorded"]
    assert 0 < before < 3_000
    rest = backfilled(whole, tmp_path).document
    assert (rest["recorded"], rest["already_recorded"]) == (3_000 - before, before)


def test_stdin_is_read_with_a_dash(tmp_path: Path) -> None:
    """A pipe works like a file, packed or not."""
    data = json.dumps(OPENAI).encode() + b"\n" + json.dumps(ANTHROPIC).encode()
    shown = run("backfill", "-", "--db", url(tmp_path), "--json", stdin=data)
    assert shown.document["recorded"] == 2
    shown = run("backfill", "-", "--db", url(tmp_path), "--json", stdin=gzip.compress(data))
    assert shown.document["already_recorded"] == 2


def test_a_dry_run_prices_and_records_nothing(tmp_path: Path) -> None:
    """Prices can be looked at first; no ledger is made for it."""
    shown = backfilled(lines_file(tmp_path, OPENAI, ANTHROPIC), tmp_path, "--dry-run")
    assert shown.document["recorded"] == 0
    assert Decimal(shown.document["total"]["cost"]) > 0
    assert not (tmp_path / "ledger.db").exists()


def test_past_calls_count_in_budgets_and_are_never_refused(tmp_path: Path) -> None:
    """Money that is spent is entered whatever the limits say, and calls after it are refused."""
    with Governor(url(tmp_path)) as governor:
        governor.policies.put(
            Policy(id="all", tenant_id="acme", limit_type="total", limit_value="0.001")
        )
    document = backfilled(lines_file(tmp_path, OPENAI), tmp_path, "--user", "ana").document
    with Governor(url(tmp_path)) as governor:
        (budget,) = governor.budgets("acme")
        assert budget.settled == Decimal(document["total"]["cost"])
        assert budget.settled > budget.limit
        assert not governor.reserve(tenant="acme", model="gpt-4o", input_tokens=10).allowed
        (event,) = governor.events()
        assert (event.user, event.model) == ("ana", "gpt-4o")


def test_the_same_file_for_another_user_is_a_conflict_not_a_second_bill(tmp_path: Path) -> None:
    """An id names one event of a tenant: a changed subject is reported, never charged twice."""
    path = lines_file(tmp_path, OPENAI)
    backfilled(path, tmp_path, "--user", "ana")
    again = backfilled(path, tmp_path, "--user", "bob").document
    assert (again["recorded"], again["reasons"]["conflict"]["count"]) == (0, 1)


def test_people_see_spend_reasons_and_flags(tmp_path: Path) -> None:
    """The plain report names providers, models, totals, and why lines were left out."""
    path = lines_file(tmp_path, OPENAI, ANTHROPIC, "{")
    shown = run("backfill", path, "--db", url(tmp_path))
    assert shown.code == 0
    assert "2 calls recorded, 0 were there already; 1 without a price" in shown.out
    assert "claude-sonnet-4-5" in shown.out
    assert "not JSON" in shown.out
    assert "undated" in shown.out
    assert shown.err == ""


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(["gpt-4o", "2025-01-01", 200, 1e308]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["response", "usage", "stream", "chunks", "data", "model", "id", "timestamp", "status",
             "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "custom_id",
             "usageMetadata", "promptTokenCount", "provider", "headers", "date", "cost"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(JSON, max_size=8))
def test_any_json_is_recorded_or_counted(values: list[Any]) -> None:
    """Whatever a file holds, every line is recorded, known, or left out with a reason."""
    lines = [(number, json.dumps(value).encode()) for number, value in enumerate(values, start=1)]
    with Governor("memory://") as governor:
        report = import_lines(governor, lines, Subject("acme", None, ()))
        left_out = sum(skipped.count for skipped in report.skipped.values())
        assert report.lines == len(lines) == report.added + report.known + left_out
        assert governor.verify().ok


def test_the_recorded_responses_of_real_providers(recorded_data: Path, tmp_path: Path) -> None:
    """3,153 recorded responses go into SQLite, are priced one by one as the estimator does, and
    go in only once.
    """
    path = recorded_data / "provider_responses.jsonl.gz"
    first = backfilled(path, tmp_path).document
    assert first["lines"] == 3_153
    assert first["recorded"] >= 2_950
    assert first["recorded"] + first["not_priced"] == first["lines"]
    assert "conflict" not in first["reasons"]
    again = backfilled(path, tmp_path).document
    assert (again["recorded"], again["already_recorded"]) == (0, first["recorded"])
    assert again["total"] == first["total"]
    estimator = CostEstimator()
    with Governor(url(tmp_path)) as governor:
        events = {event.id: event for event in governor.events(limit=10_000, tenant="acme")}
        assert len(events) == first["recorded"]
        assert sum(event.cost for event in events.values()) == Decimal(first["total"]["cost"])
        assert governor.verify().ok
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line, parse_float=Decimal) for line in lines]
    plain = [row for row in records if row["id"] in events and row.get("response") is not None]
    assert len(plain) >= 2_500
    for row in plain:
        at = row.get("timestamp")
        event = events[row["id"]]
        cost = estimator.cost(
            row["response"],
            provider=row["provider"],
            model=row["model_requested"] or row["model_response"] or event.model,
            at=None if at is None else datetime.fromisoformat(at),
        )
        assert event.cost == cost.total
