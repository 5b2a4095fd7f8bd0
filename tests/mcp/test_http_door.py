"""Who is let in over HTTP: every way to be somebody else, or too much."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import jwt
import pytest

from fluxai.demo_data import FREECO, PROCORP, PROCORP_USER

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
MODERN = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}


def _initialize() -> dict[str, Any]:
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}


def _post(serving: Any, token: str | None, **headers: str) -> httpx2.Response:
    bearer = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.post(
        f"{serving.url}/mcp", json=_initialize(), headers=JSON | bearer | headers, timeout=30
    )


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/", "/status"])
def test_no_token_opens_nothing(serving: Any, path: str) -> None:
    """Every path but /health wants to know who is asking."""
    answer = httpx2.request("POST" if path in ("/mcp", "/messages/") else "GET", serving.url + path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_health_is_open_and_says_nothing(serving: Any) -> None:
    """A probe needs no token and may use any name; it learns that the server runs."""
    answer = httpx2.get(f"{serving.url}/health", headers={"host": "10.0.0.7:8000"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_status_says_what_is_served(serving: Any) -> None:
    """With a token the status names protocol versions and transports."""
    answer = httpx2.get(
        f"{serving.url}/status", headers={"authorization": f"Bearer {serving.member}"}
    ).json()
    assert {"2026-07-28", "2025-11-25"} <= set(answer["protocol_versions"])
    assert answer["transports"] == ["/mcp", "/sse"]
    assert answer["subjects"] == "registered"


def _forged(algorithm: str) -> str:
    head = json.dumps({"alg": algorithm, "kid": "one"}).encode()
    return ".".join(jwt.utils.base64url_encode(part).decode() for part in (head, b"{}", b"x"))


def _wrong_tokens(serving: Any) -> dict[str, str]:
    issuer = serving.issuer
    stranger = type(issuer)(issuer.jwks)
    past, future = int(time.time()) - 3600, int(time.time()) + 3600
    public = json.loads(issuer.jwks.read_text())["keys"][0]
    payload = jwt.decode(issuer.token(), options={"verify_signature": False})
    return {
        "nothing we know": "abc",
        "half a key": serving.member[:-1],
        "another key's secret": serving.member[:16] + serving.admin[16:],
        "no key of the file": "fxk_000000000000_" + "0" * 64,
        "expired": issuer.token(exp=past),
        "without expiry": issuer.token(without=("exp",)),
        "not yet": issuer.token(nbf=future),
        "another audience": issuer.token(aud="https://elsewhere.example.com"),
        "without audience": issuer.token(without=("aud",)),
        "another issuer": issuer.token(iss="https://evil.example.com"),
        "without tenant": issuer.token(without=("tenant",)),
        "a tenant that is no text": issuer.token(tenant=["a"]),
        "an empty tenant": issuer.token(tenant=""),
        "every tenant": issuer.token(tenant="*"),
        "another kind of key": _forged("ES256"),
        "a user that is no text": issuer.token(sub=""),
        "another's signature": stranger.token(),
        "no signature": jwt.encode(payload, "", algorithm="none"),
        "the public key as a secret": jwt.encode(payload, public["n"], algorithm="HS256"),
    }


WRONG = (
    "nothing we know", "half a key", "another key's secret", "no key of the file", "expired",
    "without expiry", "not yet", "another audience", "without audience", "another issuer",
    "without tenant", "a tenant that is no text", "an empty tenant", "every tenant",
    "another kind of key", "a user that is no text",
    "another's signature", "no signature", "the public key as a secret",
)  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_token_is_refused(serving: Any, wrong: str) -> None:
    """Nobody comes in with a token that is not whole, ours, current and for a tenant."""
    assert _post(serving, _wrong_tokens(serving)[wrong]).status_code == 401


def test_every_wrong_token_is_tried(serving: Any) -> None:
    """The list of wrong tokens and its names agree, and the right one comes in."""
    assert set(_wrong_tokens(serving)) == set(WRONG)
    assert _post(serving, serving.issuer.token()).status_code == 200


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/", "/status"])
def test_foreign_names_and_pages_are_turned_away(serving: Any, path: str) -> None:
    """A request for another host (421) or from another site's page (403) is not even asked for a token."""
    url = serving.url + path
    assert httpx2.get(url, headers={"host": "evil.example.com"}).status_code == 421
    assert httpx2.get(url, headers={"origin": "https://evil.example.com"}).status_code == 403


def test_a_page_of_this_machine_may_call(serving: Any) -> None:
    """The Inspector runs in a browser on the same machine."""
    answer = _post(serving, serving.member, origin="http://localhost:6274")
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/mcp", "/messages/?session_id=" + "0" * 32])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
def test_five_megabytes_are_too_many(serving: Any, path: str, *, declared: bool) -> None:
    """A body beyond the cap is refused, whether it says its length or not."""
    size = 5 * 1024 * 1024
    whole = b" " * size
    pieces = (whole[:65536] for _ in range(size // 65536))
    answer = httpx2.post(
        serving.url + path,
        content=whole if declared else pieces,
        headers=JSON | {"authorization": f"Bearer {serving.member}"},
        timeout=30,
    )
    assert answer.status_code == 413


def test_a_session_is_its_owners(serving: Any) -> None:
    """Another tenant, or another user of the same, finds no session under a stolen id."""
    session = _post(serving, serving.member).headers["mcp-session-id"]
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    headers = JSON | {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
    for token in (serving.freeco, serving.admin, serving.issuer.token(tenant=FREECO)):
        bearer = {"authorization": f"Bearer {token}"}
        stolen = httpx2.post(f"{serving.url}/mcp", json=listing, headers=headers | bearer)
        ended = httpx2.delete(f"{serving.url}/mcp", headers=headers | bearer)
        assert (stolen.status_code, ended.status_code) == (404, 404)
    own = {"authorization": f"Bearer {serving.member}"}
    assert httpx2.post(f"{serving.url}/mcp", json=listing, headers=headers | own).is_success


def test_an_sse_session_is_its_owners(serving: Any) -> None:
    """The path that legacy SSE posts to knows nobody but who opened the stream."""

    def bearer(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    with httpx2.stream("GET", f"{serving.url}/sse", headers=bearer(serving.member)) as stream:
        lines = stream.iter_lines()
        place = next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
        url = serving.url + place
        stolen = httpx2.post(url, json=_initialize(), headers=JSON | bearer(serving.freeco))
        assert stolen.status_code == 404
        own = httpx2.post(url, json=_initialize(), headers=JSON | bearer(serving.member))
        assert own.status_code == 202


async def test_a_revoked_key_is_refused_at_once(serving: Any) -> None:
    """A running server forgets a key in the moment its file does."""
    key, shown = serving.keys.add(tenant=PROCORP, user=PROCORP_USER)
    assert _post(serving, shown).status_code == 200
    serving.keys.revoke(key.id)
    assert _post(serving, shown).status_code == 401


def test_a_key_expires(serving: Any) -> None:
    """A key whose time is over opens nothing."""
    _, shown = serving.keys.add(tenant=PROCORP, expires_at=int(time.time()) - 1)
    assert _post(serving, shown).status_code == 401


async def test_two_tokens_are_two_tenants(serving: Any) -> None:
    """On one server each token sees the budgets of its own tenant."""
    seen = {}
    for name, token in {"freeco": serving.freeco, "procorp": serving.issuer.token()}.items():
        async with serving.connect(token, "auto") as client:
            answer = await client.call_tool("list_budgets", {})
            budgets = (answer.structured_content or {})["budgets"]
            seen[name] = {row["policy_id"] for row in budgets}
    assert "freeco-daily" in seen["freeco"]
    assert "procorp-daily" in seen["procorp"]
    assert not seen["freeco"] & seen["procorp"]
