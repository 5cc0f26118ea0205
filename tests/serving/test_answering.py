"""Requests as JSON become items of a model; many are answered together, each fails alone."""

import base64
import copy
import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar import encoders, heads, indexing
from nearfar.encoders.numeric import VectorEncoder
from nearfar.errors import InputError
from nearfar.models import load, save_model
from nearfar.serving.answerer import Answerer
from nearfar.serving.items import Limits, image_of, item_of, listed, pieces
from nearfar.sources.images import decode


def png(size=(8, 6), colour=(200, 10, 10)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of texts and images."""
    torch.manual_seed(0)
    words = ["a red apple", "a green pear", "a long sentence about fruit that grows on trees"] * 3
    text = encoders.text("small", texts=words, vocabulary=120, dim=16)
    place = tmp_path_factory.mktemp("serve") / "model"
    image = (encoders.image(size=16, dim=24), heads.linear(24, 16))
    save_model(place, {"image": image, "text": text}, {"method": "pairs"})
    return place


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    texts = [f"fruit number {k}" for k in range(30)]
    path = tmp_path_factory.mktemp("index") / "index"
    return indexing.build_index(path, model.embed_texts(texts), [f"t{k}" for k in range(30)],
                                {"text": texts, "number": list(range(30))}, model_hash=model.hash)  # fmt: skip


def test_one_value_or_several():
    assert listed("a") == ["a"]
    assert listed(["a", "b"]) == ["a", "b"]
    assert listed([1.0, 2]) == [[1.0, 2]]
    assert listed([[1.0], [2.0]]) == [[1.0], [2.0]]
    assert listed([]) == []


@pytest.mark.parametrize("each", [1, 30, 500])
def test_pieces_hold_all_items_once_at_the_least_work(each):
    """Held against every way to cut the sorted items."""
    costs, most = [7, 90, 3, 41, 40, 200, 5, 38], 160
    found = pieces(costs, most, each)
    assert sorted(k for batch in found for k in batch) == list(range(len(costs)))

    def work(batches):
        return sum(each + len(batch) * max(batch) for batch in batches)

    def allowed(batches):
        return all(len(batch) == 1 or len(batch) * max(batch) <= most for batch in batches)

    items, ways = sorted(costs), []
    for bits in range(2 ** (len(items) - 1)):
        cuts = [0, *(k + 1 for k in range(len(items) - 1) if bits >> k & 1), len(items)]
        ways.append([items[a:b] for a, b in itertools.pairwise(cuts)])
    batches = [[costs[k] for k in batch] for batch in found]
    assert allowed(batches)
    assert work(batches) == min(work(way) for way in ways if allowed(way))


def test_pieces_of_nothing_and_of_like_items():
    assert pieces([0, 0], 1, 1) == [[0], [1]]
    assert pieces([], 10, 1) == []
    assert [len(batch) for batch in pieces([4] * 10, 16, 1)] == [2, 4, 4]


@pytest.mark.parametrize(("given", "says"), [
    ("", "A text is empty"),
    ({"image": "!!"}, "not base64"),
    ({"image": base64.b64encode(b"no image").decode()}, "cannot be read"),
    ({"image": png(), "text": "a"}, "has one of the keys"),
    ({"path": "/etc/passwd"}, "has one of the keys"),
    ([1.0, 2.0], "no vectors"),
    ({"vector": [10**400]}, "no vectors"),
    (7, "An item is a text"),
    ("x" * 200, "200 characters; up to 100"),
    ({"image": png((80, 80))}, "6,400 pixels; up to 1,000"),
])  # fmt: skip
def test_what_is_no_item_of_the_model_is_told(model, given, says):
    with pytest.raises(InputError, match=says):
        item_of(given, model, None, Limits(characters=100, pixels=1000))


def test_a_image_comes_as_base64_as_a_data_uri_or_as_bytes():
    for given in (png(), f"data:image/png;base64,{png()}", base64.b64decode(png())):
        made, pixels = image_of(given, Limits())
        assert (made.size, pixels, made.getpixel((0, 0))) == ((8, 6), 48, (200, 10, 10))


def test_a_image_is_read_as_its_file_is(tmp_path):
    """Turned as EXIF says, transparency on white, 16 bits: the vector of an upload is that of the same file."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    clear = np.dstack([pixels, np.where(np.arange(9) < 4, 0, 255).astype(np.uint8) * np.ones((6, 1), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(rng.integers(0, 65536, (6, 9), dtype=np.uint16)).save(tmp_path / "deep.png")
    expected = {
        "turned": pixels[::-1].swapaxes(0, 1),
        "clear": np.where(clear[..., 3:] == 0, 255, pixels),
    }
    for name in ("turned", "clear", "deep"):
        made, count = image_of(base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode(), Limits())
        assert count == 54
        assert np.array_equal(np.asarray(made), np.asarray(decode((tmp_path / f"{name}.png").read_bytes())))
        if name in expected:
            assert np.array_equal(np.asarray(made), expected[name])
    assert len(np.unique(np.asarray(made))) > 20  # 16 bits are scaled, not cut off


def test_no_text_is_taken_for_a_file(model, tmp_path):
    path = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(path)
    item = item_of(str(path), model, None, Limits())
    assert (item.role, item.value) == ("text", str(path))


def test_answers_are_those_of_the_model_and_each_request_fails_alone(model, index):
    answerer = Answerer(model, index)
    texts = [f"word {k} " * (k % 7 + 1) for k in range(40)]
    jobs = [{"kind": "embed", "input": text} for text in texts]
    jobs.insert(3, {"kind": "embed", "input": ["fine", {"image": "!!"}]})
    jobs.insert(9, {"kind": "embed", "input": []})
    jobs.append({"kind": "embed", "input": [{"image": png()}, "a pear"]})
    jobs.append({"kind": "search", "query": "fruit number 3", "k": 2})
    jobs.append({"kind": "search", "query": "fruit number 3", "k": 2, "where": "nonsense ("})
    found = answerer.answer(jobs)
    assert [k for k, one in enumerate(found) if one.error] == [3, 9, len(jobs) - 1]
    assert "input 1: An image is not base64" in found[3].error
    good = [one for k, one in enumerate(found[:42]) if k not in (3, 9)]
    assert np.allclose(np.concatenate([one.value.vectors for one in good]), model.embed_texts(texts), atol=1e-6)
    both = found[-3].value.vectors
    assert np.allclose(both[0], model.embed_images([Image.new("RGB", (8, 6), (200, 10, 10))])[0], atol=1e-6)
    assert np.allclose(both[1], model.embed_texts(["a pear"])[0], atol=1e-6)
    assert [hit["key"] for hit in found[-2].value] == [
        h["key"] for h in index.search(model.embed_texts(["fruit number 3"])[0], 2)
    ]


def test_an_item_that_breaks_the_encoder_fails_its_own_request_alone(model, monkeypatch):
    embed, calls = model.embed, []

    def broken(items, *given, **more):
        calls.append(len(items))
        if "poison" in items:
            raise RuntimeError("shape mismatch")
        return embed(items, *given, **more)

    monkeypatch.setattr(model, "embed", broken)
    found = Answerer(model).answer([{"kind": "embed", "input": x} for x in ("a", "poison", "b")])
    assert [one.status for one in found] == [200, 500, 200]
    assert "shape mismatch" in found[1].error
    assert calls == [3, 1, 1, 1]


def test_a_query_may_be_an_item_of_the_index_with_parts_added_and_taken_away(model, index):
    (found,) = Answerer(model, index).answer([{"kind": "search", "query": {"key": "t4"}, "plus": "a red apple",
                                              "minus": {"key": "t9"}, "k": 3, "where": "number < 20"}])  # fmt: skip
    a, c = index.vector("t4"), index.vector("t9")
    v = a + model.embed_texts(["a red apple"])[0] - c
    expected = [hit for hit in index.search(v, 5, "number < 20") if hit["key"] not in ("t4", "t9")]
    assert [hit["key"] for hit in found.value] == [hit["key"] for hit in expected[:3]]
    (wrong,) = Answerer(model, index).answer([{"kind": "search", "query": {"key": "nope"}}])
    assert (wrong.status, "no item 'nope'" in wrong.error) == (400, True)
    for job, says in (({"query": {"key": 4}}, "key of an item is a string"), ({"query": "a", "k": 0}, "Got k = 0")):
        (wrong,) = Answerer(model, index).answer([{"kind": "search", **job}])
        assert (wrong.status, says in wrong.error) == (400, True), wrong
    (none,) = Answerer(model).answer([{"kind": "search", "query": "a"}])
    assert "has no index" in none.error


def test_a_number_that_no_float_holds_fails_its_own_request_alone(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "model", {"vector": VectorEncoder(["a", "b", "c"], dim=8)}, {"method": "simclr"})
    own = load(tmp_path / "model")
    given = ([1.0, 2.0, 3.0], [10**400, 1, 1], [{"vector": [[1, 2, 3], [4, 5]]}], [4, 5, 6])
    found = Answerer(own).answer([{"kind": "embed", "input": one} for one in given])
    assert [one.status for one in found] == [200, 400, 400, 200]
    assert "each a float32" in found[1].error
    assert np.allclose(found[3].value.vectors, own.embed(np.array([[4.0, 5, 6]], np.float32), "vector"), atol=1e-6)


def test_words_and_vectors_together(model, index):
    jobs = [{"kind": "search", "query": "fruit number 3", "k": 4, "hybrid": True},
            {"kind": "search", "query": "fruit number 3", "k": 4, "exact": True},
            {"kind": "search", "query": {"key": "t3"}, "hybrid": True}]  # fmt: skip
    both, vectors, wrong = Answerer(model, index).answer(jobs)
    query = model.embed_texts(["fruit number 3"])
    assert both.value == index.search_many(query, 4, texts=["fruit number 3"])[0]
    assert {hit["key"] for hit in both.value if hit["text_rank"] == 1} == {"t3"}
    expected = index.search(query[0], 4)
    assert [hit["key"] for hit in vectors.value] == [hit["key"] for hit in expected]
    assert np.allclose([hit["score"] for hit in vectors.value], [hit["score"] for hit in expected], atol=1e-6)
    assert wrong.status == 400
    assert "needs a text" in wrong.error


def test_an_index_of_the_first_numbers_is_asked_with_as_many(model, tmp_path):
    texts = [
        "a red apple",
        "green pear",
        "fruit",
        "long trees",
        "a sentence about trees",
        "red fruit grows",
        "on",
        "pear a",
    ]
    short = indexing.build_index(tmp_path / "i", model.truncated(5).embed_texts(texts), texts, model_hash=model.hash)
    jobs = [{"kind": "search", "query": texts[4], "k": 3}, {"kind": "search", "query": {"key": texts[4]}, "k": 2}]
    found, others = Answerer(model, short).answer(jobs)
    z = model.embed_texts(texts)[:, :5].astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    scores = np.sort(z @ z[4])[::-1]
    assert found.value[0]["key"] == texts[4]
    assert np.allclose([hit["score"] for hit in found.value], scores[:3], atol=1e-5)
    assert np.allclose([hit["score"] for hit in others.value], scores[1:3], atol=1e-5)
    short.meta["similarity"] = "dot"  # of a model whose vectors keep their length, their first numbers do too
    lengthy = copy.copy(model)
    lengthy.similarity = "dot"
    (found,) = Answerer(lengthy, short).answer(jobs[:1])
    scores = np.sort(z @ lengthy.embed_texts(texts)[4, :5])[::-1]
    assert abs(scores[0] - 1) > 0.01
    assert np.allclose([hit["score"] for hit in found.value], scores[:3], atol=1e-5)


def test_an_index_of_another_model_is_refused(model, tmp_path):
    other = indexing.build_index(tmp_path / "i", np.eye(3, 16, dtype=np.float32), list("abc"), model_hash="other")
    with pytest.raises(InputError, match="built by another model"):
        Answerer(model, other)


def test_predictions_are_those_of_predict_and_no_file_of_the_server_is_read(model, tmp_path, monkeypatch):
    rows = [{"text": "a red apple"}, {"text": "a green pear"}]
    options = {"classes": "apple,pear", "top": 2}
    (found,) = Answerer(model).answer([{"kind": "predict", "rows": rows, "options": options}])
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found.value == [{k: v for k, v in row.items() if k != "key"}
                           for row in nearfar.predict(model, path, **options).rows()]  # fmt: skip
    (images,) = Answerer(model).answer([{"kind": "predict", "rows": [{"image": {"image": png()}}], "options": options}])
    assert set(images.value[0]) == {"prediction", "score", "prediction_2", "score_2"}
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    passwords = tmp_path / "passwords"
    passwords.write_text("root:secret\n")
    listed_ = tmp_path / "classes.txt"
    listed_.write_text("a\nb\n")
    for job, says in (
        ({"rows": [{"image": str(secret)}], "options": options}, "is the path of an image"),
        ({"rows": rows, "options": {"classes": str(listed_)}}, "names a file of the server"),
        ({"rows": rows, "options": options | {"templates": str(passwords)}}, "names a file of the server"),
        ({"rows": [], "options": {}}, "1 to 256 objects"),
        ({"rows": rows, "options": {"nonsense": 1}}, "no option 'nonsense'"),
    ):
        (wrong,) = Answerer(model).answer([{"kind": "predict", **job}])
        assert wrong.status == 400, wrong
        assert says in wrong.error
        assert "root" not in wrong.error
