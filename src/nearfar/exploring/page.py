"""The page of Embedding Atlas on a port of this machine. Nothing is fetched from elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import InputError, install
from nearfar.ports import check_address

if TYPE_CHECKING:
    from nearfar.exploring.atlas import Atlas

HOST = "127.0.0.1"
REFUSED = (2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080)


def check_port(port: int) -> None:
    """Raises InputError for a port in use, and for one that no browser opens."""
    if port in REFUSED:
        raise InputError(f"Browsers refuse to open the port {port}, which is that of another service.",
                         "Give another: --port 5055.")  # fmt: skip
    check_address(HOST, port)


def check_installed() -> None:
    """Raises InputError where Embedding Atlas is not installed."""
    try:
        importlib.import_module("embedding_atlas.server")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise InputError(f"Exploring needs the package '{package}', which is not installed.",
                         install("explore")) from error  # fmt: skip


def app_of(atlas: Atlas) -> Any:
    """The application (ASGI): the page, its table behind DuckDB without access to files, answers to this page alone."""
    check_installed()
    import embedding_atlas
    from embedding_atlas.data_source import DataSource
    from embedding_atlas.server import make_server

    class Held(DataSource):
        """What the page wants kept is kept as long as the process lives."""

        def _cache_index_load(self) -> list[str]:
            return []

        def cache_set(self, name: str, data: Any) -> None:
            self._kept = self.__dict__.get("_kept", {}) | {name: data}
            self._cache_index.add(name)

        def cache_get(self, name: str) -> Any:
            return self.__dict__.get("_kept", {}).get(name)

    page: Any = atlas.table
    source = Held(atlas.name, page, {"props": atlas.props})
    static = Path(embedding_atlas.__file__).parent / "static"
    return own_pages_only(make_server(source, static_path=str(static), duckdb_uri="server"))


def own_pages_only(app: Any) -> Any:
    """Requests under another name of this machine, and those that other pages send, are refused: what runs in a browser
    must not ask the table."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            host = headers.get("host", "")
            named = host.rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
            if not named or headers.get("origin", f"http://{host}") != f"http://{host}":
                kind = (b"content-type", b"text/plain")
                await send({"type": "http.response.start", "status": 403, "headers": [kind]})
                await send({"type": "http.response.body", "body": b"This page answers itself alone.\n"})
                return
        await app(scope, receive, send)

    return guarded


def serve(atlas: Atlas, port: int, started: Callable[[str], None] | None = None) -> None:
    """Serves the page until it is stopped (Ctrl-C or SIGTERM); `started` is told the address once it answers."""
    check_port(port)
    app = app_of(atlas)
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started and started is not None:
                started(f"http://{HOST}:{port}")

    Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=2)).run()
