"""Whatever bytes lie in a file: rows, a named problem, or an InputError; never another exception."""

import gzip
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nearfar.errors import InputError
from nearfar.sources import open_data

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)


def image(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def parquet():
    sink = pa.BufferOutputStream()
    columns = {"text": ["a b c", "d e f", "g h i"], "image": [image("PNG")] * 3, "label": [0.0, float("nan"), 1.0],
               "deep": [{"a": [1]}, None, {"a": []}], "day": pa.array([1, 2, 3], pa.timestamp("ns"))}  # fmt: skip
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


PAGE = b".TH LS 1\n.SH NAME\nls \\- list directory contents\n.SH DESCRIPTION\n.TS\nx\n.TE\nWords and more words.\n"
EXIF = Image.Exif()
EXIF[0x0112] = 6
JSON = [{"text": "a b c", "label": 1.5, "tags": ["x", "y"]}, {"text": "d e f", "label": None}]
SAMPLES = {
    "t.csv": b'text,label\n"a, b",x\n"c ""d""",y\ne f,x\n',
    "t.tsv": b"text\tlabel\na b\tx\nc d\ty\n",
    "t.jsonl": b"".join(json.dumps(item).encode() + b"\n" for item in JSON),
    "t.json": json.dumps(JSON).encode(),
    "t.parquet": parquet(),
    "t.txt": b"\xef\xbb\xbfone passage\n\nanother passage\n",
    "p/a.png": image("PNG"),
    "p/b.png": image("PNG", "I;16"),
    "p/c.jpg": image("JPEG", exif=EXIF),
    "p/d.tif": image("TIFF"),
    "p/e.tiff": image("TIFF", "F"),
    "p/k.tif": image("TIFF", "I"),
    "p/f.gif": image("GIF", "P"),
    "p/g.webp": image("WEBP"),
    "p/h.bmp": image("BMP"),
    "p/i.ppm": image("PPM"),
    "p/j.avif": image("AVIF"),
    "man/a.1": PAGE,
    "man/b.1.gz": gzip.compress(PAGE, mtime=0),
    "texts/a.md": b"# Title\nand words",
    "m/masks/a.png": image("PNG", "L"),
    "b/corpus.jsonl": b'{"_id": "d1", "title": "t", "text": "words"}\n{"_id": "d2", "text": "others"}\n',
    "b/queries.jsonl": b'{"_id": "q1", "text": "query"}\n',
    "b/qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
}


@st.composite
def contents(draw, sample):
    """Any bytes, or a sample with pieces cut out, overwritten, doubled or put in."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(sample)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, min(8, len(data) - start)))
        data[start : start + length] = draw(
            st.one_of(st.binary(max_size=8), st.just(bytes(data[start : start + 50])), st.sampled_from(TOKENS))
        )
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


TOKENS = [b"\0", b"\xff\xfe", b'"', b"\n", b"\r", b"\\ud800", b"9" * 5000, b"[" * 3000, b"NaN", b"1e999",
          b"\xf0\x28\x8c\x28", b"__line__", b"\x7f\xff\xff\xff", b"\xff" * 8]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_bytes(name, data):
    content = data.draw(contents(SAMPLES[name]))
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder, "data", name).parent if "/" not in name else Path(folder, "data", name.split("/")[0])
        around = [other for other in SAMPLES if "/" in name and other.split("/")[0] == name.split("/")[0]]
        for other in around if name[0] in "b" else []:
            write(Path(folder, "data", other), SAMPLES[other])
        if name.startswith("m/"):
            write(Path(folder, "data", "m/images/a.png"), image("PNG"))
        write(Path(folder, "data", name), content)
        for unreadable in ("error", "skip"):
            understood(top if "/" in name else top / name, unreadable, Path(folder, "cache"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def understood(path, unreadable, cache):
    """Opened and used as the commands do it."""
    try:
        data = open_data(path, unreadable=unreadable, cache=cache)
        data.describe()
        assert len(data.keys) == len(data)
        for role in data.content_roles:
            if data.modality(role).name == "image":
                assert data.images(role, 8).shape == (len(data), 3, 8, 8)
            else:
                assert len(data.texts(role)) == len(data)
    except InputError:
        return
    assert len(data) > 0
