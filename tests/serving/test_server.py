"""The running server, asked by OpenAI's own client and by plain requests."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest

from nearfar.cli import main

from .test_answering import folder, index, model, png  # noqa: F401


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def call(url, path, body=None, key=None, data=None, kind="application/json"):
    """Status and JSON (or text) of a request."""
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = json.dumps(body).encode() if body is not None else data
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    with contextlib.suppress(ValueError):
        return status, json.loads(text)
    return status, text


@contextlib.contextmanager
def running(*words):
    """`nearfar serve` on a free port; its address, and what it printed."""
    port, lines = free_port(), []
    command = [sys.executable, "-m", "nearfar", "serve", *map(str, words), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 300
        while True:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end
            with contextlib.suppress(OSError):
                if call(url, "/health")[0] == 200:
                    break
            time.sleep(0.2)
        yield url, lines
    finally:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()


@pytest.fixture(scope="module")
def server(folder, index):  # noqa: F811
    with running(folder, "--index", index.path, "--api-key", "secret") as (url, lines):
        yield url
    assert any("verified: " in line for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines


@pytest.fixture(scope="module")
def client(server):
    from openai import OpenAI

    return OpenAI(base_url=f"{server}/v1", api_key="secret", max_retries=0)


def test_openais_client_gets_the_vectors_of_the_model(client, model):  # noqa: F811
    texts = ["a red apple", "a green pear"]
    found = client.embeddings.create(model="nearfar", input=texts)
    assert np.allclose([one.embedding for one in found.data], model.embed_texts(texts), atol=1e-6)
    assert [one.index for one in found.data] == [0, 1]
    floats = client.embeddings.create(model="nearfar", input=texts[0], encoding_format="float")
    assert np.allclose(floats.data[0].embedding, model.embed_texts(texts[:1])[0], atol=1e-6)
    few = np.asarray(client.embeddings.create(model="nearfar", input=texts, dimensions=5).data[1].embedding)
    whole = model.embed_texts(texts)[1]
    assert np.allclose(few, whole[:5] / np.linalg.norm(whole[:5]), atol=1e-6)
    tokenizer = model.roles["text"].encoder.tokenizer
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(len(tokenizer.encode(x).ids) for x in texts)


def test_openais_client_is_told_what_is_wrong(client, server):
    import openai

    with pytest.raises(openai.BadRequestError, match="A text is empty"):
        client.embeddings.create(model="nearfar", input="")
    with pytest.raises(openai.BadRequestError, match="vectors have 16 numbers, not 17"):
        client.embeddings.create(model="nearfar", input="a", dimensions=17)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0).embeddings.create(model="x", input="a")


def test_images_come_in_json_and_as_files(server, model):  # noqa: F811
    from PIL import Image

    expected = model.embed_images([Image.new("RGB", (8, 6), (200, 10, 10))])[0]
    status, found = call(server, "/v1/embeddings", {"input": {"image": png()}}, "secret")
    assert status == 200
    assert np.allclose(found["data"][0]["embedding"], expected, atol=1e-6)
    mark = "----edge"
    body = (f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
            "Content-Type: image/png\r\n\r\n").encode()  # fmt: skip
    body += base64.b64decode(png()) + f"\r\n--{mark}--\r\n".encode()
    status, found = call(server, "/v1/embeddings/files", None, "secret", body, f"multipart/form-data; boundary={mark}")
    assert status == 200, found
    assert np.allclose(found["data"][0]["embedding"], expected, atol=1e-6)


def test_search_and_predictions(server, model, index):  # noqa: F811
    status, found = call(server, "/v1/search", {"query": "fruit number 3", "k": 3, "where": "number > 5"}, "secret")
    expected = index.search(model.embed_texts(["fruit number 3"])[0], 3, "number > 5")
    assert status == 200
    assert [hit["key"] for hit in found["hits"]] == [hit["key"] for hit in expected]
    asked = {"rows": [{"text": "a red apple"}], "options": {"classes": "apple,pear"}}
    status, found = call(server, "/predict", asked, "secret")
    assert status == 200, found
    assert found["predictions"][0]["prediction"] in ("apple", "pear")


def test_a_field_that_no_endpoint_knows_is_told(server):
    for path, body, says in (
        ("/v1/search", {"query": "fruit", "top_k": 3}, "top_k: Extra inputs are not permitted"),
        ("/v1/embeddings", {"input": "fruit", "dimension": 5}, "dimension: Extra inputs are not permitted"),
    ):
        status, found = call(server, path, body, "secret")
        assert (status, says in found["error"]["message"]) == (400, True), found


def test_a_request_whose_process_dies_is_told_so(monkeypatch):
    """The process that took it is killed before it answers; one that still waits in the queue goes on waiting."""
    service = pytest.importorskip("nearfar.serving.service", reason="pip install 'nearfar[serve]'")
    monkeypatch.setattr(service, "LOOK", 0.05)
    assert service.Gathering().worker_id == os.getpid()
    ends = service.Endpoints(service.Service("model"))
    ends.response_buffer, ends.request_queue, ends.response_queue_id = {}, SimpleQueue(), 0
    taker = subprocess.Popen(["sleep", "600"])

    async def asked():
        both = [asyncio.ensure_future(ends.answered("embeddings", {})) for _ in range(2)]
        await asyncio.sleep(0.2)
        taken = ends.request_queue.get()[1]
        ends.response_buffer[taken].worker_id = taker.pid
        await asyncio.sleep(0.2)
        assert not any(one.done() for one in both)
        taker.kill()
        with pytest.raises(service.HTTPException, match="process of the model died"):
            await asyncio.wait_for(both[0], 60)
        assert (both[1].done(), ends.waiting) == (False, 1)
        item = ends.response_buffer[ends.request_queue.get()[1]]
        item.response = (service.Answer("vectors"), 1), service.LitAPIStatus.OK
        item.event.set()
        return await both[1]

    try:
        assert asyncio.run(asked()) == "vectors"
    finally:
        taker.kill()
        taker.wait()


def test_without_the_key_nothing_but_health_is_answered(server):
    for path in ("/v1/embeddings", "/v1/search", "/predict"):
        assert call(server, path, {"input": "a", "query": "a", "rows": [{}]})[0] == 401
    assert call(server, "/metrics")[0] == 401
    assert call(server, "/health")[0] == 200


def test_of_many_requests_at_once_the_wrong_ones_alone_fail(server, model):  # noqa: F811
    """16 clients, a twentieth of the requests poisoned."""
    rng = np.random.default_rng(0)
    texts = [f"text {k} " * int(rng.integers(1, 20)) for k in range(320)]
    poisoned = set(rng.choice(320, 16, replace=False).tolist())

    def ask(k):
        bad = [{"image": "!!"}, "", {"nothing": 1}, 5][k % 4]
        return call(server, "/v1/embeddings", {"input": bad if k in poisoned else texts[k]}, "secret")

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(320)))
    assert {k for k, (status, _) in enumerate(found) if status != 200} == poisoned
    good = [k for k in range(320) if k not in poisoned]
    vectors = np.array([found[k][1]["data"][0]["embedding"] for k in good])
    assert np.allclose(vectors, model.embed_texts([texts[k] for k in good]), atol=1e-5)
    told = call(server, "/metrics", key="secret")[1]
    assert 'nearfar_requests_total{endpoint="embeddings",status="200"}' in told
    count = float(next(x for x in told.splitlines() if x.startswith("nearfar_batch_requests_count")).split()[1])
    total = float(next(x for x in told.splitlines() if x.startswith("nearfar_batch_requests_sum")).split()[1])
    assert total > count, "requests were answered together"


def test_the_page_of_the_endpoints_names_them(server):
    told = call(server, "/openapi.json", key="secret")[1]
    assert {"/v1/embeddings", "/v1/embeddings/files", "/v1/search", "/predict", "/metrics"} <= set(told["paths"])


def test_more_requests_than_may_wait_are_refused_and_large_bodies_too(folder):  # noqa: F811
    with running(folder, "--waiting", 1, "--megabytes", 1) as (url, _):
        with ThreadPoolExecutor(24) as pool:
            found = list(
                pool.map(lambda k: call(url, "/v1/embeddings", {"input": ["a text " * 800] * 12})[0], range(24))
            )
        assert set(found) == {200, 429}
        assert call(url, "/v1/embeddings", {"input": "x" * (2 << 20)})[0] == 413
        assert call(url, "/v1/embeddings", {"input": "a"})[0] == 200


def test_what_cannot_be_served_is_told_at_once(folder, tmp_path, capsys):  # noqa: F811
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(folder), "--port", str(port)]) == 2
    assert f"The port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
    wrong = (
        ([str(tmp_path / "none")], "There is no"),
        ([str(folder), "--index", str(tmp_path)], "There is no index"),
        ([str(folder), "--host", "example.org"], "host"),
    )
    for words, says in wrong:
        assert main(["serve", *words]) == 2
        assert says in capsys.readouterr().err
