"""Matryoshka: the loss at several widths against loops, and models whose first numbers are vectors of their own."""

import numpy as np
import pytest

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.training import building
from nearfar.training.settings import TrainSettings

WORDS = ["stone", "river", "window", "paper", "garden", "engine", "letter", "bridge", "candle", "forest", "market"]


def write_pairs(path):
    """Pairs of texts of the same two words, in either order."""
    rows = [f"the {a} of the {b},{b} and {a}" for a in WORDS for b in WORDS if a != b]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv")


def by_hand(a, b, tau):
    """InfoNCE of pairs in both directions, by loops."""
    a, b = ([row / np.linalg.norm(row) for row in np.asarray(z.detach(), np.float64)] for z in (a, b))
    total = 0.0
    for first, second in ((a, b), (b, a)):
        for i, anchor in enumerate(first):
            logits = [float(anchor @ other) / tau for other in second]
            total += np.log(np.sum(np.exp(logits))) - logits[i]
    return total / (2 * len(a))


def test_the_loss_is_the_weighted_sum_over_prefixes(table):
    settings = TrainSettings(batch_size=12, steps=3, dims="16,4", dims_weights="0.5,2")
    made = building.prepare("pairs", nearfar.data(table), settings, {"temperature": 0.2})
    method = made.method.eval()
    assert made.resolved["dims"] == "128+16+4"
    batch = made.loader.at(0)
    loss = method.training_step(batch, 0)
    z = method.encode(batch)
    expected = {m: by_hand(z["a"][:, :m], z["b"][:, :m], 0.2) for m in (128, 16, 4)}
    assert float(loss.detach()) == pytest.approx(expected[128] + 0.5 * expected[16] + 2 * expected[4], rel=1e-5)
    assert method.terms["loss_whole"] == pytest.approx(expected[128], rel=1e-5)
    assert method.terms["loss_4"] == pytest.approx(expected[4], rel=1e-5)
    loss.backward()
    assert method.towers()["text"].encoder.table.weight.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"steps": 30, "batch_size": 16, "val_every": 0, "progress": False}
    return nearfar.fit("pairs", table, out=out, dims="128,16,2", **options).path


def test_the_model_knows_its_widths_and_gives_prefixes(model, table, tmp_path):
    loaded = nearfar.load(model / "model", verify=True)
    assert loaded.dims == [128, 16, 2]
    texts = ["the stone of the river", "paper"]
    whole = loaded.embed_texts(texts)
    cut = loaded.truncated(16).embed_texts(texts)
    np.testing.assert_allclose(cut, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(InputError, match=r"have 128 numbers\. Got dims 129"):
        loaded.truncated(129)
    index = nearfar.embed(model, table, out=tmp_path / "index", dims=16)
    hits = nearfar.search(index, "the stone of the river", k=3)
    vectors = loaded.truncated(16).embed_texts([hit["question"] for hit in hits])
    np.testing.assert_allclose([hit["score"] for hit in hits], vectors @ cut[0], atol=1e-5)
    with pytest.raises(InputError, match="holds the first 16 numbers of each vector, not all numbers"):
        nearfar.embed(model, table, out=tmp_path / "index", append=True)


def test_an_index_is_asked_for_its_first_numbers(model, table, tmp_path, capsys):
    """Beside vectors embedded anew and cut by hand; an index of cut vectors is cut further."""
    whole = nearfar.embed(model, table, out=tmp_path / "whole")
    loaded, query = nearfar.load(model / "model"), "the stone of the river"
    for path, dims in ((whole, 16), (nearfar.embed(model, table, out=tmp_path / "short", dims=16), 2)):
        hits = nearfar.search(path, query, k=5, dims=dims)
        stored = nearfar.load(model / "model").embed_texts([query, *(hit["question"] for hit in hits)])[:, :dims]
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        np.testing.assert_allclose([hit["score"] for hit in hits], stored[1:] @ stored[0], atol=1e-5)
    everyone = nearfar.search(whole, query, k=1000, dims=16)
    vectors = loaded.embed_texts([query, *(hit["question"] for hit in everyone)])[:, :16]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.argmax(vectors[1:] @ vectors[0]) == 0
    key = everyone[3]["key"]
    assert key not in {hit["key"] for hit in nearfar.search(whole, f"key:{key}", k=1000, dims=16)}
    with pytest.raises(InputError, match=r"have 16 numbers\. Got dims 17"):
        nearfar.search(tmp_path / "short", query, dims=17)
    assert main(["search", str(whole.path), query, "--dims", "5"]) == 0
    assert "trained for 128, 16, 2; its first 5" in capsys.readouterr().err
    for dims in ("16", "128"):
        assert main(["search", str(whole.path), query, "--dims", dims]) == 0
        assert "note" not in capsys.readouterr().err


def test_evaluate_sets_the_prefixes_beside_the_whole(model, table):
    said = []
    found = nearfar.evaluate(model, table, baseline=False)
    assert [row["slug"] for row in found["rows"]] == ["model", "model-16", "model-2"]
    alone = nearfar.evaluate(model, table, baseline=False, dims=2, say=said.append)
    assert not said
    assert [row["primary"] for row in alone["rows"]] == [found["rows"][2]["primary"]]
    assert found["rows"][2]["primary"] != found["rows"][0]["primary"]
    nearfar.evaluate(model, table, baseline=False, dims=5, say=said.append)
    assert said[0].startswith("note: the model was trained for 128, 16, 2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs", "--dims", "16,x"], "--dims takes different whole numbers of at least 1"),
        (["pairs", "--dims", "16,16"], "--dims takes different whole numbers"),
        (["pairs", "--dims", "512,16"], "--dims 512: the vectors have 128 numbers. Use 128 or less."),
        (["pairs", "--dims", "16,8", "--dims-weights", "1"], "a number above 0 for each of --dims 16,8. Got '1'"),
        (["pairs", "--dims-weights", "1"], "none are named. Add --dims"),
        (
            ["pairs", "--dims", "16", "--negatives", "queue"],
            "'pairs' does not contrast the vectors that its model gives",
        ),
        (["simclr", "--text", "question", "--dims", "16"], "or one of views without a projection head (--projector 0)"),
    ],
)
def test_wrong_uses(words, message, table, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", words[0], str(table), "--steps", "2", *words[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
