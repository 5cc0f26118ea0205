"""A frozen teacher beside the loss of a method: its term against loops, from a model or from files of vectors."""

import numpy as np
import pytest
import torch

import nearfar
from nearfar import encoders
from nearfar.cli import main
from nearfar.methods.distilling import cosine_loss, relation_loss
from nearfar.models import save_model
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.training.test_nesting import WORDS, write_pairs


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An untrained model of texts with vectors of another width than the student's."""
    torch.manual_seed(0)
    encoder = encoders.text("small", texts=[f"the {word} of the river and" for word in WORDS], vocabulary=120, dim=48)
    folder = tmp_path_factory.mktemp("teacher") / "model"
    save_model(folder, {"text": encoder, "text_b": encoder})
    return folder


def unit(z):
    return [row / np.linalg.norm(row) for row in np.asarray(z, np.float64)]


def relations_by_hand(student, teacher, tau):
    """KL of the softmax over the keys of the teacher's similarities from the student's, by loops."""
    total, sides = 0.0, [[unit(z) for z in pair] for pair in (teacher, student)]
    for i in range(len(sides[0][0])):
        p, q = (np.exp([float(a[i] @ b[j]) / tau for j in range(len(b))]) for a, b in sides)
        p, q = p / p.sum(), q / q.sum()
        total += float(np.sum(p * np.log(p / q)))
    return total / len(sides[0][0])


def test_losses_by_hand_and_at_their_limits():
    rng = np.random.default_rng(0)
    student, teacher = ([torch.from_numpy(rng.normal(size=(n, d))) for n in (4, 6)] for d in (3, 5))
    made = relation_loss(tuple(student), tuple(teacher), 0.3)
    assert float(made) == pytest.approx(relations_by_hand(student, teacher, 0.3), rel=1e-5)
    turned = torch.linalg.qr(torch.from_numpy(rng.normal(size=(5, 5))))[0]
    same = tuple(3 * z @ turned for z in teacher)
    assert float(relation_loss(same, tuple(teacher), 0.1)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(same, tuple(teacher))) > 0.1
    assert float(cosine_loss(tuple(2 * z for z in teacher), tuple(teacher))) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(tuple(-z for z in teacher), tuple(teacher))) == pytest.approx(2)


def step_of(table, name="pairs", given=(), **settings):
    plan = TrainSettings(batch_size=12, steps=3, **settings)
    made = building.prepare(name, nearfar.data(table), plan, dict(given))
    method, batch = made.method.eval(), made.loader.at(0)
    return method, batch, float(method.training_step(batch, 0).detach()), method.encode(batch)


def test_the_term_is_added_for_the_rows_of_the_batch(table, teacher, tmp_path):
    _, _, alone, _ = step_of(table)
    said = {"distil_from": str(teacher), "distil_weight": 0.5, "distil_temperature": 0.2}
    method, batch, total, z = step_of(table, **said)
    data, model = nearfar.data(table), nearfar.load(teacher)
    texts = [[data.texts(role)[row] for row in batch.rows] for role in ("text", "text_b")]
    theirs = [model.embed_texts(one) for one in texts]
    expected = relations_by_hand([z["a"].detach(), z["b"].detach()], theirs, 0.2)
    assert method.terms["distillation"] == pytest.approx(expected, rel=1e-4)
    assert total == pytest.approx(alone + 0.5 * expected, rel=1e-4)
    paths = [tmp_path / "a.parquet", tmp_path / "b.npy"]
    for path, role in zip(paths, ("text", "text_b"), strict=True):
        nearfar.embed(teacher, data, out=path, role=role)
    _, _, from_files, _ = step_of(table, **said | {"distil_from": ",".join(map(str, paths))})
    assert from_files == pytest.approx(total, rel=1e-5)


def test_views_of_one_row_have_one_teacher(table, teacher):
    method, batch, _, z = step_of(table, "simclr", {"projector": 0}, distil_from=str(teacher), distil_temperature=0.2)
    data = nearfar.data(table)
    theirs = nearfar.load(teacher).embed_texts([data.texts(method.role)[row] for row in batch.rows])
    expected = relations_by_hand([view.detach() for view in z["views"]], [theirs, theirs], 0.2)
    assert expected > 1e-4
    assert method.terms["distillation"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs", "--distil-from", "nowhere"], "there is no model and no file of vectors at 'nowhere'"),
        (
            ["pairs", "--distil-from", "{teacher}", "--distil-loss", "cosine"],
            "vectors have 48 numbers, the student's 128",
        ),
        (["pairs", "--distil-weight", "2"], "--distil-weight says how a teacher is learned from, and none is named"),
        (["swav", "--distil-from", "{teacher}"], "'swav' does not contrast two sides of every item"),
    ],
)
def test_wrong_uses(words, message, table, teacher, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, data = [word.format(teacher=teacher) for word in words], "emoji" if words[0] == "swav" else str(table)
    assert main(["fit", given[0], data, "--limit", "60", "--steps", "2", *given[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
