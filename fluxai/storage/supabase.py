"""The Supabase store: the same functions, called through its REST server by supabase-py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fluxai.core.errors import ConfigurationError, StorageError
from fluxai.storage.functions import FunctionStorage, RefusedData, Unreachable
from fluxai.storage.postgres import BAD_DATA, CHECK_VIOLATION, PASSING

if TYPE_CHECKING:
    import httpx

#: What the REST server shows of the ledger.
SCHEMA: Final = "fluxai_api"
_URL: Final = "SUPABASE_URL"
_KEY: Final = "SUPABASE_SERVICE_ROLE_KEY"
#: It has no connection to its database, or the gateway none to it.
_AWAY: Final = frozenset(
    {
        "PGRST000",
        "PGRST001",
        "PGRST002",
        "PGRST003",
        "429",
        "500",
        "502",
        "503",
        "504",
        "520",
        "522",
    }
)
_NO_SUCH_ROLE: Final = "22023"
_REMEDIES: Final = {
    _NO_SUCH_ROLE: f"the key names a role that this project does not have; see {_KEY}",
    "PGRST106": f"add {SCHEMA} to the exposed schemas (project settings, Data API)",
    "PGRST202": "run schema.sql in the SQL editor: the ledger's functions are not there",
    "PGRST301": f"the key is not one of this project; see {_KEY}",
    "PGRST302": f"the key is not one of this project; see {_KEY}",
    "PGRST303": f"the key has expired or is not valid; see {_KEY}",
    "42501": f"this key may not govern: {_KEY} has to be the service role's (a secret key)",
    "401": f"the key is not one of this project; see {_KEY}",
}


class SupabaseStorage(FunctionStorage):
    """Keep the ledger in a Supabase project, whose SQL editor has run `schema.sql`.

    Args:
        url: `supabase://`, or the project's own `https://….supabase.co`; without that, the
            environment's `SUPABASE_URL`.
        key: The service role's key; without it, the environment's `SUPABASE_SERVICE_ROLE_KEY`. It
            may do everything: it belongs on servers only.
        timeout_s: How long to wait for one answer.
        patience_s: How long a call is tried again while the project is out of reach.

    Raises:
        ConfigurationError: No URL or no key, or supabase-py is not installed.
    """

    def __init__(
        self,
        url: str = "supabase://",
        *,
        key: str | None = None,
        timeout_s: float = 10.0,
        patience_s: float = 10.0,
    ) -> None:
        if url.startswith("supabase://") and url != "supabase://":
            raise ConfigurationError(
                f"storage: write supabase:// alone, and the project's URL into {_URL}; or pass "
                f"SupabaseStorage('https://….supabase.co', key=…)"
            )
        found = os.environ.get(_URL, "") if url == "supabase://" else url
        secret = os.environ.get(_KEY, "") if key is None else key
        for value, variable in ((found, _URL), (secret, _KEY)):
            if not value:
                raise ConfigurationError(f"storage: supabase:// needs {variable}; it is not set")
        self._rest = RestCaller(found, secret, timeout_s=timeout_s)
        super().__init__(self._rest, patience_s=patience_s)

    @property
    def url(self) -> str:
        """The project's URL."""
        return self._rest.place

    def migrate(self) -> None:
        """Check that the project has the schema. It is made by running `schema.sql` there.

        Raises:
            StorageError: It has none, or another one; or the key may not govern.
        """
        self.check_version(int(self._read("schema_version")))
        self._make_months(None)


class RestCaller:
    """Calls functions through PostgREST, each call a request and a transaction."""

    def __init__(self, url: str, key: str, *, timeout_s: float) -> None:
        try:
            import httpx
            from postgrest.exceptions import APIError
            from supabase import ClientOptions, SupabaseException, create_client
        except ImportError as error:
            raise ConfigurationError(
                f"storage: supabase:// needs supabase-py: pip install 'fluxai[supabase]' ({error})"
            ) from error
        self.place = url
        self._error: type[APIError] = APIError
        self._transport: type[httpx.HTTPError] = httpx.HTTPError
        self._http = httpx.Client(timeout=timeout_s)
        try:
            self._client = create_client(
                url, key, ClientOptions(schema=SCHEMA, httpx_client=self._http)
            )
        except SupabaseException as error:
            self._http.close()
            raise ConfigurationError(f"storage: {url}: {error}") from error

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function; see `Caller`."""
        try:
            return self._client.rpc(function, dict(arguments)).execute().data
        except self._error as error:
            raise self._fault(error) from error
        except self._transport as error:
            raise Unreachable(f"{self.place} is out of reach: {error!r:.300}") from error

    def _fault(self, error: Any) -> Exception:
        code, said = str(error.code or ""), " ".join(str(error.message or error).split())[:500]
        if code.startswith(BAD_DATA) and code != _NO_SUCH_ROLE:
            return RefusedData(said)
        # A server that is going down may answer with nothing at all.
        if not code or code in _AWAY or code.startswith(PASSING):
            return Unreachable(f"{self.place} is out of reach: {said} ({code})")
        # The server tells of no constraint's name, but its words do.
        if code == CHECK_VIOLATION and "partition constraint" in said:
            return Unreachable(f"{self.place} made a month meanwhile: {said} ({code})")
        remedy = _REMEDIES.get(code)
        return StorageError(
            f"{self.place}: {said} ({code})" + ("" if remedy is None else f"; {remedy}")
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()
