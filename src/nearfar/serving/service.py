"""The endpoints of `nearfar serve`, on LitServe: an answering process behind a queue, in front of it FastAPI.

POST /v1/embeddings        as OpenAI's: texts, {"image": base64}, lists of numbers
POST /v1/embeddings/files  images as uploaded files
POST /v1/search            the index: a query, perhaps with plus and minus, a filter
POST /predict              what the model says of rows
GET  /health  /metrics  /info  /docs
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from queue import Empty
from typing import Annotated, Any, Literal

import litserve as ls
import numpy as np
from fastapi import Depends, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from litserve.loops import simple_loops
from litserve.specs import base as specs_base
from litserve.utils import LitAPIStatus, ResponseBufferItem
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from nearfar import files, processes
from nearfar.serving.answerer import Answer, Answerer
from nearfar.serving.items import Limits
from nearfar.training.embedding import give_back_memory

QUEUE = "/v1/embeddings"
OPEN = ("/health",)  # asked by what watches the server: needs no key
Value = str | list[Any] | dict[str, Any]
Coding = Literal["float", "base64"]
LOOK = 1.0  # seconds between two looks at whether the process that answers still lives


@dataclass(frozen=True)
class Service:
    """What is served, and how much of it at once.

    waiting: requests in the queue and in work, beyond which 429 is answered. batch: requests that are answered
    together, gathered for up to `gather` seconds after the first. timeout: seconds in the queue, then 504. bytes: of a
    request's body, then 413.
    """

    model: str
    index: str | None = None
    key: str | None = None
    name: str = "nearfar"
    waiting: int = 256
    batch: int = 64
    gather: float = 0.004
    timeout: float = 30.0
    bytes: int = 32 << 20
    limits: Limits = field(default_factory=Limits)


class Body(BaseModel):
    """A field that an endpoint does not know is told, not passed over."""

    model_config = ConfigDict(extra="forbid")


class EmbeddingsRequest(Body):
    """As OpenAI's, with images and numbers beside texts."""

    input: Value = Field(examples=["a red apple", ["a red apple", "a green pear"], [{"image": "BASE64"}]])
    model: str = "nearfar"
    encoding_format: Coding = "float"
    dimensions: int | None = None
    user: str | None = None
    role: str | None = None


class SearchRequest(Body):
    query: Value = Field(examples=["a red apple", {"image": "BASE64"}, {"key": "KEY OF AN ITEM"}])
    k: int = 10
    where: str | None = Field(None, examples=["year > 2000"])
    plus: Value | None = None
    minus: Value | None = None
    role: str | None = None
    exact: bool = False
    hybrid: bool = False


class PredictRequest(Body):
    rows: list[dict[str, Any]] = Field(examples=[[{"text": "a red apple"}]])
    options: dict[str, Any] = Field(default_factory=dict, examples=[{"classes": "fruit,tool", "top": 1}])


LitAPI: Any = ls.LitAPI
LitSpec: Any = specs_base.LitSpec
BatchedLoop: Any = simple_loops.BatchedLoop


class Gathering(BatchedLoop):
    """Waits for a request, then gathers what comes within a moment, up to the largest batch."""

    @property
    def worker_id(self) -> int:
        """The process that has taken a request, which the one that waits for the answer is told."""
        return os.getpid()

    def get_batch_requests(self, lit_api: Any, request_queue: Any, transport: Any) -> tuple[list[Any], list[Any]]:
        from litserve.loops.base import _SENTINEL_VALUE, _StopLoopError
        from litserve.utils import LoopResponseType

        found: list[Any] = []
        late: list[Any] = []
        end = None
        while len(found) < lit_api.max_batch_size:
            left = 1.0 if end is None else end - time.monotonic()
            try:
                one = request_queue.get_nowait() if left <= 0 else request_queue.get(timeout=left)
            except Empty:
                break
            if one == _SENTINEL_VALUE:
                raise _StopLoopError()
            queue, uid, began, job = one
            self.put_response(transport, queue, uid, (), LitAPIStatus.START, LoopResponseType.REGULAR)
            end = end or time.monotonic() + lit_api.batch_timeout
            if time.monotonic() - began > lit_api.request_timeout:
                late.append((queue, uid))
            else:
                found.append((queue, uid, job))
        return found, late


TIDY = 1.0  # seconds between two times that memory is given back: batches of all sizes leave holes
bearer = HTTPBearer(auto_error=False)


class Api(LitAPI):
    """The answering process: one model for all endpoints."""

    def __init__(self, service: Service):
        self.service, self.tidied = service, time.monotonic()
        super().__init__(max_batch_size=service.batch, batch_timeout=service.gather, api_path=QUEUE,
                         spec=Endpoints(service), loop=Gathering())  # fmt: skip

    def setup(self, device: str) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends its workers
        processes.follow_parent()
        own = self.service
        self.answerer = Answerer.opened(own.model, own.index, own.limits, device)
        worst = self.answerer.verified()
        told = "no examples to verify (a folder of another library)" if worst is None else f"verified: {worst:.1e}"
        print(f"model {own.model}: {told}", flush=True)  # noqa: T201

    def decode_request(self, request: Any) -> Any:
        return request

    def batch(self, inputs: Any) -> Any:
        return list(inputs)

    def predict(self, jobs: Any) -> list[Any]:
        found = [(answer, len(jobs)) for answer in self.answerer.answer(jobs)]
        if time.monotonic() - self.tidied > TIDY:
            give_back_memory()
            self.tidied = time.monotonic()
        return found

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return output

    def authorize(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
    ) -> None:
        """Bearer KEY, as OpenAI's clients send it."""
        key = self.service.key
        if key is None or request.url.path in OPEN:
            return
        if given is None or not hmac.compare_digest(given.credentials.encode(), key.encode()):
            raise HTTPException(401, "A key is needed: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"})


class Metrics:
    """Counts for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("nearfar_requests", "Answers by endpoint and HTTP status.", ["endpoint", "status"],
                                registry=self.registry)  # fmt: skip
        self.seconds = Histogram("nearfar_seconds", "Seconds from a request to its answer.", ["endpoint"],
                                 registry=self.registry)  # fmt: skip
        self.batch = Histogram("nearfar_batch_requests", "Requests that were answered together.",
                               buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self.registry)  # fmt: skip
        self.waiting = Gauge("nearfar_waiting", "Requests in the queue and in work.", registry=self.registry)


class Endpoints(LitSpec):
    """The HTTP side of the queue."""

    def __init__(self, service: Service):
        super().__init__()
        self.service, self.api_path, self.waiting = service, QUEUE, 0
        self._metrics: Metrics | None = None

    @property
    def metrics(self) -> Metrics:
        """Made in the process that serves: it does not travel to another."""
        self._metrics = self._metrics or Metrics()
        return self._metrics

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_metrics": None}

    def pre_setup(self, lit_api: Any) -> None:
        self.add_endpoint(QUEUE, self.embeddings, ["POST"])
        self.add_endpoint(f"{QUEUE}/files", self.files, ["POST"])
        self.add_endpoint("/v1/search", self.search, ["POST"])
        self.add_endpoint("/predict", self.predict, ["POST"])
        self.add_endpoint("/metrics", self.shown, ["GET"])

    def decode_request(self, request: Any, context_kwargs: Any = None) -> Any:
        return request

    def encode_response(self, output: Any, context_kwargs: Any = None) -> Any:
        return output

    async def embeddings(self, request: EmbeddingsRequest) -> Response:
        job = {"kind": "embed", "input": request.input, "role": request.role, "dimensions": request.dimensions}
        return await self.embedded(job, request.encoding_format)

    async def files(
        self, files: Annotated[list[UploadFile], File()], encoding_format: Annotated[Coding, Form()] = "float"
    ) -> Response:
        given = [{"image": await one.read()} for one in files]
        return await self.embedded({"kind": "embed", "input": given, "role": None}, encoding_format)

    async def embedded(self, job: dict[str, Any], coding: str) -> Response:
        vectors, tokens = await self.answered("embeddings", job)
        data = [{"object": "embedding", "index": k, "embedding": coded(one, coding)} for k, one in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": self.service.name, "usage": usage})

    async def search(self, request: SearchRequest) -> Response:
        hits = await self.answered("search", {"kind": "search", **request.model_dump()})
        return JSONResponse({"object": "list", "hits": plain(hits)})

    async def predict(self, request: PredictRequest) -> Response:
        told = await self.answered("predict", {"kind": "predict", **request.model_dump()})
        return JSONResponse({"object": "list", "predictions": plain(told)})

    async def shown(self) -> Response:
        self.metrics.waiting.set(self.waiting)
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def answered(self, endpoint: str, job: dict[str, Any]) -> Any:
        """The value of the job. Raises HTTPException: 429 where too many wait, 400 for a wrong request, 504 where it
        waited too long, 500 where the model failed, or its process died."""
        began, status = time.monotonic(), 500
        try:
            if self.waiting >= self.service.waiting:
                raise HTTPException(429, "Too many requests wait.", {"Retry-After": "1"})
            self.waiting += 1
            try:
                value = await self.through(job)
            finally:
                self.waiting -= 1
            status = 200
            return value
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self.metrics.requests.labels(endpoint, str(status)).inc()
            self.metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

    async def through(self, job: dict[str, Any]) -> Any:
        """Into the queue, and what comes back."""
        uid, event = str(uuid.uuid4()), asyncio.Event()
        self.response_buffer[uid] = ResponseBufferItem(event=event)
        try:
            self.request_queue.put((self.response_queue_id, uid, time.monotonic(), job))
            await self.arrived(self.response_buffer[uid])
            response, state = self.response_buffer[uid].response
        finally:
            self.response_buffer.pop(uid, None)
        if isinstance(response, HTTPException):
            raise response
        if state == LitAPIStatus.ERROR:
            raise HTTPException(500, "The model failed.")
        answer, together = response
        self.metrics.batch.observe(together)
        if answer.error is not None:
            raise HTTPException(answer.status, answer.error)
        return answer.value

    async def arrived(self, item: ResponseBufferItem) -> None:
        """Waits for an answer as long as the process lives that has taken the request."""
        waiting = asyncio.ensure_future(item.event.wait())
        try:
            while not (await asyncio.wait([waiting], timeout=LOOK))[0]:
                if item.worker_id is not None and not files.running(item.worker_id) and not item.event.is_set():
                    raise HTTPException(500, "The process of the model died over this request; a new one is started.")
        finally:
            waiting.cancel()


def coded(vector: np.ndarray, coding: str) -> Any:
    """A list of numbers, or float32 in little endian as base64."""
    if coding == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    return vector.tolist()


def plain(value: Any) -> Any:
    """Values that JSON knows: what is not finite is null."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


async def refused(request: Request, error: Any) -> Response:
    """An error as OpenAI's clients read it."""
    told = {"message": error.detail, "type": "invalid_request_error" if error.status_code < 500 else "server_error",
            "param": None, "code": error.status_code}  # fmt: skip
    return JSONResponse({"error": told}, error.status_code, error.headers)


async def malformed(request: Request, error: Any) -> Response:
    """A body that is no such request: which field, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(str(one) for one in first["loc"][1:])
    return await refused(request, HTTPException(400, f"{where or 'the body'}: {first['msg']}."))


class Server(ls.LitServer):
    """LitServe's, whose HTTP process ends with the one that started it."""

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        processes.follow_parent()
        async with super().lifespan(app):
            yield


def server_of(service: Service, device: str = "cpu") -> Server:
    """The server, not started."""
    made = Server(Api(service), accelerator="cuda" if device.startswith("cuda") else "cpu", devices=1,
                        timeout=service.timeout, max_payload_size=service.bytes, restart_workers=True,
                        model_metadata={"model": service.name, "index": service.index is not None})  # fmt: skip
    made.uvicorn_graceful_timeout = 5
    made.app.title, made.app.version = f"nearfar: {service.name}", version("nearfar")
    made.app.add_exception_handler(StarletteHTTPException, refused)
    made.app.add_exception_handler(RequestValidationError, malformed)
    return made


def run(service: Service, host: str, port: int, device: str = "cpu") -> None:
    """Serves until it is stopped, by Ctrl-C or SIGTERM."""
    own = os.getpid()
    os.environ[processes.PARENT] = str(own)

    def stop(number: int, frame: Any) -> None:
        """The processes that this one forks end without a word: uvicorn raises the signal again once it is done."""
        raise KeyboardInterrupt if os.getpid() == own else SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    logging.getLogger("litserve").setLevel(logging.WARNING)
    server_of(service, device).run(host=host, port=port, num_api_servers=1, log_level="warning",
                                   generate_client_file=False, api_server_worker_type="process")  # fmt: skip


__all__ = ["Answer", "Service", "run", "server_of"]
