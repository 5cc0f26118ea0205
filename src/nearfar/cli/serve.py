"""`nearfar serve`: a model behind HTTP."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from nearfar import options
from nearfar.checks import PositiveFloat, PositiveInt, Range
from nearfar.cli.common import read, speaker
from nearfar.errors import InputError, install
from nearfar.ports import check_address

KEY = "NEARFAR_API_KEY"
LOOPBACK = "127.0.0.1"


@dataclass
class ServeOptions:
    """Where the server listens, and how much it takes at once.

    Args:
        index: index that /v1/search asks; default index/ in the model's folder where there is one.
        host: 127.0.0.1 answers this machine alone, 0.0.0.0 and :: every one that reaches it; these need a key.
        port: of the server.
        api_key: key that a request must carry (Authorization: Bearer KEY); default the variable NEARFAR_API_KEY.
            Without either, one is made and shown where the server is open to other machines.
        device: cpu, or cuda.
        waiting: requests that may wait before others are refused with 429.
        timeout: seconds that one may wait.
        megabytes: of a request, at most.
    """

    index: str | None = None
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1"
    port: Annotated[int, Range(1024, 65535)] = 8000
    api_key: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    waiting: PositiveInt = 256
    timeout: PositiveFloat = 30.0
    megabytes: PositiveInt = 32


def serve(model: str, given: ServeOptions, say: Callable[[str], None]) -> None:
    """Serves the model of a folder until it is stopped. Raises InputError for a folder that holds none, an index that
    is none, a port in use, and where LitServe is not installed."""
    try:
        from nearfar.serving import service
    except ModuleNotFoundError as error:
        raise InputError(f"Serving needs the package '{error.name}', which is not installed.",
                         install("serve")) from error  # fmt: skip
    from nearfar import indexing, stores
    from nearfar.models import kinds_in
    from nearfar.searching import searched

    place = stores.local(model, searched)
    kinds_in(place)
    own = place / "index"
    index = str(stores.local(given.index)) if given.index else str(own) if indexing.is_index(own) else None
    if index is not None and not indexing.is_index(index):
        raise InputError(f"There is no index at '{index}'.", "`nearfar embed MODEL DATA --out INDEX` makes one.")
    key = given.api_key or os.environ.get(KEY) or None
    if given.host != LOOPBACK and key is None:
        key = secrets.token_urlsafe(24)
        say(f"warning: {given.host} answers other machines. Requests need the key {key}")
    check_address(given.host, given.port)
    shown = "127.0.0.1" if given.host == "0.0.0.0" else f"[{given.host}]" if ":" in given.host else given.host
    say(f"http://{shown}:{given.port}  POST /v1/embeddings{' /v1/search' if index else ''} /predict  GET /health "
        "/metrics /docs")  # fmt: skip
    say("Ctrl-C stops it.")
    service.run(
        service.Service(str(place), index, key, place.resolve().name, given.waiting, timeout=given.timeout,
                        bytes=given.megabytes << 20),
        given.host, given.port, given.device,
    )  # fmt: skip


def run_serve(words: list[str]) -> None:
    places, checked = read(words, [ServeOptions], (1,), "nearfar serve MODEL")
    serve(places[0], options.build(ServeOptions, checked), speaker(False))
