"""What must be right before anybody is served: credentials, addresses, the files of keys."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from fluxai import ConfigurationError, NotFound
from fluxai.mcp.http import HttpSettings
from fluxai.mcp.identity import ADMIN, Identity
from fluxai.mcp.keys import KeyFile, KeyVerifier
from fluxai.mcp.tokens import JwtSettings, JwtVerifier

pytestmark = pytest.mark.anyio

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"host": "0.0.0.0"}, "only this machine"),  # noqa: S104 -- what must be refused
        ({"public_url": "https://budgets.example.com/mcp"}, "only this machine"),
        ({"allowed_hosts": ["budgets.example.com"]}, "only this machine"),
        ({"host": "0.0.0.0", "verifier": "keys"}, "its own names"),  # noqa: S104 -- the same
        ({"public_url": "budgets.example.com", "verifier": "keys"}, "names no host"),
    ],
)
def test_an_open_door_is_refused(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    """No server is made that lets strangers in, or that can't tell its own name from another."""
    if "verifier" in settings:
        settings = settings | {"verifier": KeyVerifier(KeyFile(tmp_path / "keys.json"))}
    with pytest.raises(ConfigurationError, match=why):
        HttpSettings(**settings)


def test_only_this_machine_comes_in_without_a_token(serve: Any, tmp_path: Path) -> None:
    """With --no-auth the launch says who it is; foreign pages are turned away all the same."""
    with serve("--transport=sse", "--port=0", "--no-auth", "--demo") as url:
        assert httpx2.get(f"{url}/status").json()["transports"] == ["/sse"]
        assert httpx2.post(f"{url}/mcp").status_code == 404
        evil = httpx2.get(f"{url}/status", headers={"origin": "https://evil.example.com"})
        assert evil.status_code == 403


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--transport=http"], "nobody could come in"),
        (["--transport=http", "--no-auth", "--host=0.0.0.0"], "only this machine"),
        (["--transport=http", "--no-auth", "--keys=keys.json"], "--no-auth checks nothing"),
        (["--transport=http", "--keys=keys.json", "--tenant=acme"], "the token says it"),
        (["--transport=http", "--keys=broken.json"], "no file of keys"),
        (["--transport=http", "--jwt-jwks=jwks.json"], "--jwt-issuer only"),
    ],
)
def test_a_command_that_can_not_serve_says_why(
    main: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    why: str,
) -> None:
    """It ends with one line and exit code 1, and nothing is served."""
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text('{"keys": [{"id": "a"}]}')
    code, said = main("--db=memory://", *options)
    assert code == 1
    assert why in said


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "either the issuer's JWKS or a shared secret"),
        ({"jwks": "a.json", "secret": SECRET}, "either the issuer's JWKS or a shared secret"),
        ({"jwks": "a.json", "audience": ""}, "an issuer and an audience"),
        ({"secret": "short"}, "at least 32 bytes"),
        ({"jwks": "a.json", "algorithms": ["HS256"]}, "HS256"),
        ({"jwks": "a.json", "algorithms": ["none"]}, "none"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, "RS256"),
    ],
)
def test_jwt_settings_that_verify_nothing_are_refused(settings: dict[str, Any], why: str) -> None:
    """Keys, issuer, audience and algorithms must suit each other."""
    with pytest.raises(ConfigurationError, match=why):
        JwtSettings(**({"issuer": "i", "audience": "a"} | settings))


def test_public_keys_come_over_https() -> None:
    """Keys that anybody on the way could exchange are not asked for."""
    with pytest.raises(ConfigurationError, match="https"):
        JwtVerifier(JwtSettings(issuer="i", audience="a", jwks="http://login.example.com/jwks"))


async def test_a_shared_secret_signs_tokens_where_it_is_configured() -> None:
    """HS256 is believed with a secret, as a text of scopes and without a user too."""
    verifier = JwtVerifier(JwtSettings(issuer="i", audience="a", secret=SECRET, user_claim="user"))
    claims = {"iss": "i", "aud": ["a", "b"], "exp": 2**33, "tenant": "acme", "scope": f"x {ADMIN}"}
    token = await verifier.verify_token(jwt.encode(claims, SECRET, algorithm="HS256"))
    assert token is not None
    assert (token.claims or {})["tenant"] == "acme"
    assert (token.subject, token.scopes) == (None, [ADMIN, "x"])
    other = jwt.encode(claims, SECRET[::-1], algorithm="HS256")
    assert await verifier.verify_token(other) is None


async def test_keys_are_fetched_from_the_issuer_once(serving: Any) -> None:
    """Tokens are verified with the keys at the issuer's URL, which a flood of unknown ones does not ask anew."""
    asked: list[str] = []

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = serving.issuer.jwks.read_bytes()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    token = serving.issuer.token(aud="a", iss="i")
    unknown = jwt.encode({"iss": "i"}, SECRET, algorithm="HS256", headers={"kid": "two"})
    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as issuer:
        threading.Thread(target=issuer.serve_forever).start()
        url = f"http://127.0.0.1:{issuer.server_port}/jwks"
        verifier = JwtVerifier(JwtSettings(issuer="i", audience="a", jwks=url))
        found = [await verifier.verify_token(token) for _ in range(3)]
        strange = [await verifier.verify_token(unknown) for _ in range(3)]
        issuer.shutdown()
    assert all(token is not None for token in found)
    assert strange == [None, None, None]
    assert asked == ["/jwks"]


@pytest.mark.parametrize("body", [b"no JSON", b"{}"])
async def test_an_issuer_that_fails_is_not_asked_for_each_token(serving: Any, body: bytes) -> None:
    """Whoever presents tokens while it is down makes nobody wait for it again and again."""
    asked: list[str] = []

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as issuer:
        threading.Thread(target=issuer.serve_forever).start()
        url = f"http://127.0.0.1:{issuer.server_port}/jwks"
        verifier = JwtVerifier(JwtSettings(issuer="i", audience="a", jwks=url))
        token = serving.issuer.token(aud="a", iss="i")
        found = [await verifier.verify_token(token) for _ in range(3)]
        issuer.shutdown()
    assert found == [None, None, None]
    assert asked == ["/jwks"]


def test_nobody_is_every_tenant(tmp_path: Path) -> None:
    """`*` in a credential or at launch would see the policies of all, and set some for all."""
    with pytest.raises(ConfigurationError, match="every tenant"):
        Identity(tenant="*")
    with pytest.raises(ConfigurationError, match="tenant: .*not every one"):
        KeyFile(tmp_path / "keys.json").add(tenant="*")


async def test_a_missing_or_damaged_file_lets_nobody_in(tmp_path: Path) -> None:
    """Keys that were read before are forgotten when their file can't be read any more."""
    file = KeyFile(tmp_path / "keys.json")
    verifier = KeyVerifier(file)
    _, shown = file.add(tenant="acme")
    assert await verifier.verify_token(shown) is not None
    whole = file.path.read_text()
    file.path.write_text("{")
    assert await verifier.verify_token(shown) is None
    file.path.write_text(whole)
    assert await verifier.verify_token(shown) is not None
    file.path.unlink()
    assert await verifier.verify_token(shown) is None


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    """Only hashes are kept, and only their owner may read them."""
    file = KeyFile(tmp_path / "keys.json")
    key, shown = file.add(tenant="acme", user="alice", scopes=[ADMIN])
    secret = shown.rpartition("_")[2]
    assert secret not in file.path.read_text()
    assert file.path.stat().st_mode & 0o077 == 0
    assert key.identity() == Identity(
        tenant="acme", user="alice", scopes=frozenset([ADMIN]), client=f"key {key.id}"
    )
    with pytest.raises(NotFound):
        file.revoke("nobody's")


def test_the_commands_for_keys(main: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A key is made, listed without itself, and revoked."""
    keys = f"--keys={tmp_path}/keys.json"
    code, said = main("keys", "add", "--tenant=acme", "--scope=fluxai:admin", "--expires=90d", keys)
    shown = re.search(r"fxk_[0-9a-f]{12}_[0-9a-f]{64}", said)
    assert (code, shown is not None) == (0, True)
    assert shown is not None
    _, listed = main("keys", "list", "--json", keys)
    [row] = json.loads(listed)["keys"]
    assert (row["tenant"], row["scopes"]) == ("acme", [ADMIN])
    assert row["expires_at"] > 0
    assert shown[0] not in listed
    assert "acme  -  fluxai:admin  until 2" in main("keys", "list", keys)[1]
    code, refused = main("keys", "add", "--tenant=acme", "--expires=soon", keys)
    assert (code, "--expires: 'soon' is no time such as 90d" in refused) == (2, True)
    assert main("keys", "revoke", row["id"], keys)[0] == 0
    assert main("keys", "revoke", row["id"], keys)[0] == 1
