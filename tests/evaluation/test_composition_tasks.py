"""The tasks compositions and generalised-zero-shot, end to end on data that the library reads."""

import csv
import json

import numpy as np
import pytest

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.evaluation.prompts import read_word_vectors
from nearfar.training.modelled import ModelEmbedder
from tests.compositions import COLOURS, SHAPES, write_shapes
from tests.evaluation.test_compositional import naive_feasibility, naive_sweep


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), each=14)


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    nearfar.fit("pairs", table, out=out, steps=60, batch_size=32, val_every=0)
    return out


def test_hard_prompts_of_a_trained_model_by_brute_force(table, model):
    """From the file and the model alone: no function of the evaluation."""
    loaded, data = nearfar.load(model / "model"), nearfar.data(table)
    with open(table) as file:
        rows = list(csv.DictReader(file))
    split = {name: [rows[i] for i in part] for name, part in data.splits.items()}
    pairs = sorted({(r["attribute"], r["object"]) for r in split["train"] + split["test"]})
    seen = np.isin(range(len(pairs)), [pairs.index((r["attribute"], r["object"])) for r in split["train"]])
    truth = np.array([pairs.index((r["attribute"], r["object"])) for r in split["test"]])
    x = loaded.embed_images([table.parent / r["image"] for r in split["test"]]).astype(np.float64)
    t = loaded.embed_texts([f"a photo of {a} {o}" for a, o in pairs]).astype(np.float64)
    scores = 100 * x @ t.T
    s, u, h, area = naive_sweep(scores, truth, seen)
    told = scores.argmax(1)
    wanted = {"seen": s, "unseen": u, "harmonic": h, "auc": area,
              "attribute": np.mean([pairs[a][0] == pairs[b][0] for a, b in zip(told, truth, strict=True)]),
              "object": np.mean([pairs[a][1] == pairs[b][1] for a, b in zip(told, truth, strict=True)])}  # fmt: skip
    found = nearfar.evaluate(model, table, baseline=True)
    assert found["task"]["kind"] == "compositions"
    got = {row["slug"]: row["metrics"] for row in found["rows"]}
    assert got["model"] == pytest.approx(wanted, abs=0.02)  # 1e-4 on a margin in single precision flips an image
    assert got["model"]["auc"] > 5 * got["chance"]["auc"]
    assert {"pixels", "hog"} <= set(got)


@pytest.mark.parametrize("left", ["out", "zero"])
def test_the_open_world_by_brute_force(left, table, model):
    """Feasibility by the tower's own vectors of the names, the threshold by a grid on validation rows."""
    loaded, data = nearfar.load(model / "model"), nearfar.data(table)
    with open(table) as file:
        rows = list(csv.DictReader(file))
    pairs = sorted({(r["attribute"], r["object"]) for r in rows})
    names = [sorted({pair[side] for pair in pairs}) for side in (0, 1)]
    trained = {(rows[i]["attribute"], rows[i]["object"]) for i in data.splits["train"]}
    seen = np.array([pair in trained for pair in pairs])
    words = [loaded.embed_texts(one).astype(np.float64) for one in names]
    feasible = naive_feasibility(seen.reshape(len(names[0]), -1), *words).reshape(-1)
    t = loaded.embed_texts([f"a photo of {a} {o}" for a, o in pairs]).astype(np.float64)

    def measured(split, threshold):
        mine = [rows[i] for i in data.splits[split]]
        truth = np.array([pairs.index((r["attribute"], r["object"])) for r in mine])
        x = loaded.embed_images([table.parent / r["image"] for r in mine]).astype(np.float64)
        scores, away = 100 * x @ t.T, ~seen & (feasible < threshold)
        scores = np.where(away, 0.0, scores) if left == "zero" else np.where(away, -1e10, scores)
        return dict(zip(("seen", "unseen", "harmonic", "auc"), naive_sweep(scores, truth, seen), strict=True))

    grid = np.linspace(feasible[~seen].min(), feasible[~seen].max(), 50)
    marks = np.searchsorted(np.sort(feasible[~seen]), grid)  # between two pairs all thresholds do the same
    areas = {int(mark): measured("val", grid[i])["auc"] for mark, i in zip(*np.unique(marks, return_index=True),
                                                                          strict=True)}  # fmt: skip
    best = grid[int(np.argmax([areas[int(mark)] for mark in marks]))]
    task = task_for(data, "compositions", world="open", left=left)
    for split in ("val", "test"):
        found = task.evaluate(ModelEmbedder(loaded, data), split)
        wanted = measured(split, best)
        assert {name: found.metrics[name] for name in wanted} == pytest.approx(wanted, abs=0.02)
        told = next(one for one in found.tables if one.title == "Open world").rows[0]
        assert told == (f"{best:.4f}", 20, int((~seen & (feasible < best)).sum()))


def test_what_scores_that_say_nothing_and_perfect_ones_get():
    """On the rows, pairs and splits of a built-in set."""
    task = task_for(nearfar.data("digit-operations"))
    asked, rng = task.asked("test"), np.random.default_rng(0)
    right, shape = np.eye(len(asked.seen))[asked.truth], (len(asked.truth), len(asked.seen))

    def got(scores):
        return task.scored(scores, asked, "test").metrics

    perfect = got(right * rng.uniform(1, 100, len(right))[:, None])
    assert min(perfect.values()) > 0.95
    assert got(right)["auc"] == pytest.approx(0.5, abs=0.01), "one margin: no bias at which both kinds are right"
    same = got(np.zeros(shape))
    assert (same["seen"], same["unseen"]) == pytest.approx((1 / 50, 1 / 15))
    assert same["auc"] == pytest.approx(1 / 50 / 15 / 2)
    known = asked.candidates[asked.seen]
    share = [np.mean([np.mean(known[:, side] == one) for one in asked.candidates[asked.truth][:, side]])
             for side in (0, 1)]  # fmt: skip
    for said in (rng.normal(size=shape), np.tile(rng.normal(size=shape[1]), (shape[0], 1))):
        assert max(got(said)[name] for name in ("auc", "harmonic")) < 0.05
    drawn = task.chance("test").metrics
    assert drawn["attribute"] == pytest.approx(1 / 8, abs=0.03)
    assert drawn["object"] == pytest.approx(1 / 10, abs=0.03)
    assert share == pytest.approx([1 / 8, 1 / 10], abs=0.05)


def test_random_vectors_are_chance():
    data = nearfar.data("digit-operations")
    task = task_for(data)

    class Noise:
        """Vectors that say nothing."""

        inference = None

        def has(self, role):
            return True

        def check_whole(self, role, items):
            pass

        def __call__(self, role, rows):
            return np.random.default_rng(0).normal(size=(len(rows), 16))

        def items(self, role, items):
            return np.random.default_rng(1).normal(size=(len(items), 16))

    found, chance = task.evaluate(Noise(), "test").metrics, task.references()[0].evaluate("test").metrics
    assert found["auc"] < 0.01
    assert chance["auc"] < 0.005
    assert abs(found["seen"] - chance["seen"]) < 0.03
    assert chance["seen"] == pytest.approx(1 / 50, abs=0.01)
    assert chance["unseen"] == pytest.approx(1 / 15, abs=0.03)


class WithoutTexts:
    """A model whose tower of texts is left out."""

    def __init__(self, embed):
        self.embed = embed

    def has(self, role):
        return role == "image"

    def __call__(self, role, rows):
        return self.embed(role, rows)


def test_the_open_world_and_its_options(table, model, tmp_path):
    data = nearfar.data(table)
    embed = ModelEmbedder(nearfar.load(model / "model"), data)
    closed = task_for(data, "compositions").evaluate(embed, "test")
    wide = task_for(data, "compositions --world open --threshold none").evaluate(embed, "test")
    auto = task_for(data, "compositions --world open").evaluate(embed, "test")
    assert wide.counts["rows"]["gallery"] == 20 > closed.counts["rows"]["gallery"]
    assert wide.metrics["auc"] <= closed.metrics["auc"] + 1e-9
    assert wide.metrics["attribute"] == closed.metrics["attribute"]  # always read in the closed world
    assert any(table.title == "Open world" for table in auto.tables)
    top = task_for(data, "compositions --top 3").evaluate(embed, "test")
    assert top.metrics["seen"] >= closed.metrics["seen"]
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"{w} {i} {i * i % 7} 1" for i, w in enumerate([*COLOURS, *SHAPES])))
    given = task_for(data, "compositions", world="open", word_vectors=str(words))
    assert given.evaluate(embed, "test").metrics["auc"] >= 0
    assert len(references(data, given)) == 3
    blind = references(data, task_for(data, "compositions --world open"))  # without words no pair is implausible
    open_, none = (
        next(one for one in references(data, task_for(data, f"compositions --world open --threshold {threshold}"))
             if one.slug == "pixels").evaluate("test")
        for threshold in ("auto", "none")
    )  # fmt: skip
    assert len(blind) == 3
    assert open_.metrics == none.metrics
    assert open_.counts["rows"]["gallery"] == 20
    firm = task_for(data, "compositions --world open --threshold 0.1")
    assert len(references(data, firm)) == 1
    with pytest.raises(InputError, match=r"no vectors of words.*--word-vectors FILE"):
        firm.evaluate(WithoutTexts(embed), "test")
    read = task_for(data, "compositions --read classifiers").evaluate(embed, "test")
    assert read.metrics["auc"] != closed.metrics["auc"]


def test_word_vectors_of_several_words_are_averaged(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("dark 1 0\nred 0 2\n")
    assert read_word_vectors(str(words), ["dark-red", "red"])["dark-red"].tolist() == [0.5, 1.0]
    for text, message in (("dark 1 0\nred 0\n", "different lengths"), ("dark x y\n", "numbers"), ("", "no vector")):
        words.write_text(text)
        with pytest.raises(InputError, match=message):
            read_word_vectors(str(words), ["dark", "red"])


def test_several_attributes_are_measured_apart(tmp_path):
    table = write_shapes(tmp_path, each=6, second=True)
    data = nearfar.data(table, roles={"attribute": ["attribute", "size"]})
    task = task_for(data, "compositions")
    task.check()
    found = references(data, task)[1].evaluate("test")
    assert 0 < found.metrics["higher order"] <= 1


def test_attributes_that_never_stand_alone_are_read_too(tmp_path):
    """Every row has a colour and a size."""
    table = write_shapes(tmp_path, each=6, size=lambda colour, shape, number: "big" if number % 2 else "small")
    data = nearfar.data(table, roles={"attribute": ["attribute", "size"]})
    cells = [np.array(data.cells_of(name)) for name in ("attribute", "size", "object")]
    signs = np.concatenate([column[:, None] == np.unique(column) for column in cells], 1).astype(float)
    noise = np.random.default_rng(0).normal(0, 0.05, signs.shape)

    def vectors(role, rows):
        return (signs + noise)[rows]

    found = task_for(data, "compositions").evaluate(vectors, "test").metrics
    assert found["higher order"] > 0.9
    assert found["attribute"] > 0.5


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (lambda c, s, n: "test" if c == "red" else "val" if n % 2 else "train", "No training row .* attribute 'red'"),
        (lambda c, s, n: ("train", "val", "test")[n % 3], "was trained on"),
    ],
)
def test_splits_that_cannot_be_measured_are_told_before_training(tmp_path, split, words):
    table = write_shapes(tmp_path, each=6, split=split)
    with pytest.raises(InputError, match=words):
        nearfar.fit("pairs", table, out=tmp_path / "run", steps=2, batch_size=8)


def test_wrong_options_name_the_mend(table):
    data = nearfar.data(table)
    with pytest.raises(InputError, match="lacks"):
        task_for(data, "compositions", template="a photo of {object}")
    with pytest.raises(InputError, match="no file"):
        task_for(data, "compositions", word_vectors="none.txt")
    with pytest.raises(InputError, match="needs images with an attribute"):
        task_for(nearfar.data(table, roles={"attribute": None, "object": None}), "compositions")


def test_described_classes_from_the_command_line(table, model, tmp_path, capsys):
    facts = tmp_path / "facts.csv"
    facts.write_text(
        "class,round,hollow,corners,long\ndisc,1,0,0,0\nring,1,1,0,0\nbox,0,0,1,0\nbar,0,0,1,1\ncross,0,0,0,1\n"
    )
    given = ["--target", "object", "--attribute", "none", "--object", "none", "--class-attributes", str(facts)]
    assert main(["evaluate", str(model), str(table), *given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"]["kind"] == "generalised-zero-shot"
    rows = {row["slug"]: row["metrics"] for row in found["rows"]}
    assert rows["model"]["zero-shot"] > rows["chance"]["zero-shot"] == pytest.approx(0.5, abs=0.12)
    assert set(rows["pixels"]) == {"harmonic", "seen", "unseen", "zero-shot"}


def test_pixels_read_attributes_as_a_loop_does():
    data = nearfar.data("digit-attributes")
    task = task_for(data, "generalised-zero-shot", gamma=3.0)
    task.check()
    found = next(one for one in references(data, task, size=16) if one.slug == "pixels").evaluate("test").metrics
    from sklearn.linear_model import RidgeCV

    from nearfar.sources.sets.digit_attributes import facts

    x = data.images("image", 16).reshape(len(data), -1).astype(np.float64)
    names = data.values("target")
    train, test = data.splits["train"], data.splits["test"]
    mean, std = x[train].mean(0), x[train].std(0)
    z = (x - mean) / np.where(std > 1e-6, std, 1.0)
    told = (
        RidgeCV(alphas=len(train) * np.logspace(-4, 1, 6))
        .fit(z[train], [facts()[names[i]] for i in train])
        .predict(z[test])
    )
    known = {names[i] for i in train}
    right = {}
    for i, v in zip(test, told, strict=True):
        cos = {c: 100 * v @ a / np.linalg.norm(v) / np.linalg.norm(a) + 3.0 * (c not in known)
               for c, a in ((c, np.array(a)) for c, a in facts().items())}  # fmt: skip
        right.setdefault(names[i], []).append(max(cos, key=lambda c: cos[c]) == names[i])
    s, u = (np.mean([np.mean(v) for c, v in right.items() if (c in known) == flag]) for flag in (True, False))
    assert (found["seen"], found["unseen"]) == pytest.approx((s, u), abs=0.02)
    assert len(known) == 7
