"""SepCLR as a method: its sets, its two encoders, known attributes, errors, two processes, and a user's two folders."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import nearfar
from nearfar import losses
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.methods.image.sepclr import attribute_values
from nearfar.training import building, comparing
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings
from tests import stopping

SMALL = {"vector_width": 16, "vector_layers": 1}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of numbers of two sets; the target's hold a size and a sign that the background lacks."""
    path, rng = tmp_path_factory.mktemp("sets") / "sets.csv", np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "words", "set", "place", "sign", "size"])
        for i in range(160):
            place, target = i % 4, i % 2 == 1
            row = [*(2 * np.eye(4)[place][:3] + rng.normal(size=3)), 4 * (i // 8 % 3) if target else rng.normal()]
            words = " ".join(f"w{place}{rng.integers(5)}" for _ in range(5))
            more = [f"sign {i // 8 % 3}", f"{0.5 * (i // 8 % 3):.2f}"] if target else ["", ""]
            writer.writerow([*(f"{v:.4f}" for v in row), words, "new" if target else "usual", f"place {place}", *more])
    return path


ROLES = {"vector": ["a", "b", "c", "d"], "domain": "set", "label": ["place", "sign"]}


def prepared(table, settings=None, **options):
    data = nearfar.data(table, roles=ROLES)
    settings = {"batch_size": 16, "steps": 6, "warmup": 0, **SMALL} | (settings or {})
    return building.prepare("sepclr", data, TrainSettings(**settings), {"background": "usual"} | options)


def step(made):
    made.method.eval()
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch)


def test_two_encoders_with_weights_of_their_own(table):
    method = prepared(table).method
    one, other = method.common.encoder, method.salient.encoder
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    weights = [(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True) if a.dim() > 1]
    assert all(not torch.equal(a, b) for a, b in weights)
    again = prepared(table).method
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), again.parameters(), strict=True))
    assert list(method.towers()) == ["vector", "vector/common", "vector/salient"]
    first = building.build_encoder("vector", nearfar.data(table, roles=ROLES), TrainSettings(**SMALL))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), first.parameters(), strict=True))


@pytest.mark.parametrize("options", [
    {}, {"salient_weight": 1000.0, "null_weight": 100.0, "entropy_weight": 0.0}, {"uniformity": 1.0},
    {"null_vector": False, "null_weight": 0.0}, {"temperature": 2.0},
])  # fmt: skip
def test_the_loss_is_that_of_both_sets(table, options):
    z, batch, loss = step(prepared(table, **options))
    target = batch.domains != nearfar.data(table, roles=ROLES).domain_names.index("usual")
    assert 0 < target.sum() < len(target)
    assert torch.equal(target, batch.labels["sign"] >= 0)
    wanted = losses.sepclr(z["common"], z["salient"], target, **{"uniformity": 2.0} | options)
    torch.testing.assert_close(loss.total, wanted)
    assert loss.terms.keys() == {"common", "salient", "null", "entropy"}


def test_known_attributes_have_a_number_of_the_salient_code_each(table):
    made = prepared(table, attributes="sign, size", salient_weight=100.0)
    z, batch, loss = step(made)
    assert z["salient"][0].shape == (16, 2)
    assert z["salient"][0] is z["salient"][1]
    plain = made.method.common.encoder(batch.inputs["vector"])
    torch.testing.assert_close(made.method.common.encoder(batch.views["vector"][0]), plain)  # the original
    data = nearfar.data(table, roles=ROLES)
    target = batch.labels["sign"] >= 0
    size = np.array([float(v) if v else np.nan for v in data.values("size")], np.float32)
    signs = np.array([float(v[-1]) if v else np.nan for v in data.values("sign")], np.float32)
    y = torch.from_numpy(np.stack([signs, size / np.nanmax(size)], 1))[batch.rows]
    terms = losses.sepclr_terms(z["common"], z["salient"], target, uniformity=1.0)
    learned = losses.attribute_terms(z["salient"][0], y, target, [True, False])
    wanted = terms.common + 100 * learned + 10 * terms.entropy
    torch.testing.assert_close(loss.total, wanted, rtol=1e-4, atol=1e-4)


def test_the_paper_has_weights_of_each_variant():
    plain, known = (building.method_options("sepclr", given, "paper") for given in ({}, {"attributes": "sign"}))
    assert (plain.salient_weight, plain.null_weight, plain.entropy_weight, plain.uniformity) == (1000, 1000, 10, 2)
    assert (known.salient_weight, known.entropy_weight, known.uniformity) == (100, 10, 1)


def test_values_of_attributes():
    every = np.arange(5)
    values, classes = attribute_values(["2", None, 4, 3.0, ""], every)
    assert (values[[0, 2, 3]].tolist(), classes) == ([0, 1, 0.5], False)
    assert attribute_values(["2", None, 4, 3.0, ""], every[[0, 3]])[0][2] == 2  # the range is that of the rows
    assert np.isnan(values[[1, 4]]).all()
    values, classes = attribute_values(["b", "", "a", "2", "b"], every)
    assert (values[[0, 2, 3, 4]].tolist(), classes) == ([2, 1, 0, 2], True)


def test_what_cannot_be_separated_is_told_early(table, tmp_path):
    def refused(match, data=table, **options):
        with pytest.raises(InputError, match=match):
            nearfar.fit("sepclr", data, **{"vector": "a,b,c,d", "domain": "set", "out": tmp_path / "run"} | options)

    refused("'set' has no domain 'background'; it has new, usual. Name the one that is the background: --background")
    refused("no domain 'usal'", background="usal")
    refused("sepclr' needs a column of any kind . domain", domain="none", background="usual")
    refused("'sign' has no two values|no column|colour", background="usual", attributes="colour")
    lines = table.read_text().splitlines()
    alone = tmp_path / "alone.csv"
    alone.write_text("\n".join([lines[0], *(line for line in lines[1:] if ",usual," in line)]))
    refused("0 of the 5[0-9] training rows are target .by 'set'.", alone, background="usual")
    same = tmp_path / "same.csv"
    same.write_text(table.read_text().replace("sign 1", "sign 0").replace("sign 2", "sign 0"))
    refused("'sign' has no two values among the target's", same, background="usual", attributes="sign")
    refused("'salient_dim' must be", background="usual", salient_dim=0)
    assert not (tmp_path / "run").exists()


def test_rows_of_no_set_are_left_out(table, tmp_path):
    path = tmp_path / "gaps.csv"
    lines = table.read_text().splitlines()
    lines[1:41] = [line.replace(",usual,", ",,").replace(",new,", ",,") for line in lines[1:41]]
    path.write_text("\n".join(lines))
    made = prepared(path)
    drawn = np.concatenate([made.loader.at(k).rows.numpy() for k in range(4)])
    assert drawn.min() >= 40
    assert made.resolved["background_rows"] + made.resolved["target_rows"] == made.loader.sampler.items


def test_a_comparison_that_chooses_methods_leaves_it_out(table):
    data, said = nearfar.data(table, roles=ROLES), []
    found = comparing.chosen(data, nearfar.evaluation.task_for(data), TrainSettings(), "all", said.append)
    assert "sepclr" not in [one.slug for one in found]
    assert 'sepclr: left out (must be told the background: "sepclr --background new")' in said
    named = comparing.chosen(data, None, TrainSettings(), "sepclr --background usual", said.append)
    assert named[0].options == {"background": "usual"}


SCRIPT = """
import nearfar
import torch

torch.nn.BatchNorm1d.forward = lambda self, x: x

nearfar.fit(method, table, text="words", domain="set", out=out, **json.loads(options))
"""


@pytest.mark.slow
def test_two_processes_see_one_batch(table, tmp_path, monkeypatch):
    """Without batch norm, which each process does for itself."""
    plan = {"steps": 4, "batch_size": 9, "val_every": 0, "save_every": 2, "device": "cpu", "progress": False,
            "optimiser": "sgd", "lr": 0.005, "weight_decay": 0.0, "views": {"name": "mask", "p": 0.0},
            "background": "usual", "salient_weight": 1.0, "null_weight": 1.0, "entropy_weight": 1.0}  # fmt: skip
    done = stopping.start(SCRIPT, tmp_path / "two", "sepclr", table, tmp_path / "two",
                          json.dumps(plan | {"devices": 2}), 9)  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    monkeypatch.setattr(torch.nn.BatchNorm1d, "forward", lambda self, x: x)
    fit("sepclr", table, text="words", domain="set", out=tmp_path / "one", **plan)
    curves = [[json.loads(x) for x in (tmp_path / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for first, second in zip(*curves, strict=True):
        for term in ("loss", "common", "salient", "null", "entropy"):
            assert second[term] == pytest.approx(first[term], rel=1e-4, abs=1e-6)
    a, b = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("one", "two"))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders: plain noise of three colours, and the same with a digit on it."""
    root, rng, digits = tmp_path_factory.mktemp("two") / "sets", np.random.default_rng(0), load_digits()
    for name in ("plain", "written"):
        (root / name).mkdir(parents=True)
        for i in range(60):
            image = np.full((16, 16, 3), 30) + 90 * np.eye(3)[i % 3] + rng.integers(0, 60, (16, 16, 3))
            if name == "written":
                image = image / 2 + np.kron(digits.images[i] * 8, np.ones((2, 2)))[..., None]
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def test_from_two_folders_to_vectors_of_both_kinds(folders, tmp_path):
    """fit, evaluate, embed, search and report, from the command line: the folders are the domains."""
    run, data = tmp_path / "run", [str(folders), "--domain", "label"]
    assert main(["fit", "sepclr", *data, "--background", "plain", "--steps", "8", "--batch-size", "16",
                 "--device", "cpu", "--image-size", "16", "--out", str(run), "--variant", "salient"]) == 0  # fmt: skip
    assert main(["evaluate", str(run), *data, "--variant", "salient"]) == 0
    for name in ("common", "salient"):
        index = str(tmp_path / name)
        assert main(["embed", str(run), *data, "--variant", name, "--out", index]) == 0
        assert main(["search", index, str(folders / "written" / "0.png")]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    model = nearfar.load(run / "model", verify=True)
    assert model.variants == ["common", "salient"]
    images = [Image.open(folders / "written" / f"{i}.png") for i in range(3)]
    plain, common, salient = (model.embed(images, variant=v) for v in (None, "common", "salient"))
    assert np.array_equal(plain, common)
    assert common.shape == salient.shape == (3, 32)
    assert not np.allclose(common, salient)
    assert main(["embed", str(run), *data, "--variant", "other", "--out", str(tmp_path / "o")]) == 2


def test_the_probes_on_a_table_and_as_the_paper_has_it(table, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--vector", "a,b,c,d", "--domain", "set", "--label", "place,sign"]
    assert main(["fit", "sepclr", str(table), *words, "--background", "usual", "--preset", "paper", "--steps", "20",
                 "--batch-size", "32", "--vector-width", "16", "--device", "cpu", "--out", str(run), "--views", "noise",
                 "--task", "separation"]) == 0  # fmt: skip
    told = " ".join(capsys.readouterr().out.split())
    assert "optimiser adam" in told
    assert "Linear probes on target rows for 'place' (which both sets have) and 'sign'" in told
    scores = json.loads((run / "scores.json").read_text())["scores"]["test"]["metrics"]
    assert {"deviation", "shared from common", "salient from common"} <= set(scores)
    assert main(["evaluate", str(run), str(table), *words, "--task", "separation",
                 "--shared-label", "place"]) == 0  # fmt: skip


def test_codes_of_unequal_lengths_are_saved_and_embedded(table, tmp_path):
    """Known attributes make the salient code as long as they are many; each variant keeps its own length."""
    data = nearfar.data(table, roles=ROLES)
    run = fit(
        "sepclr", data, out=tmp_path / "run", background="usual", attributes="sign,size", common_dim=8,
        settings=TrainSettings(steps=2, batch_size=16, warmup=0, val_every=0, **SMALL),
    )  # fmt: skip
    model = nearfar.load(run.path / "model")
    rows = np.zeros((3, 4))
    assert model.embed(rows, "vector").shape == (3, 8)
    assert model.embed(rows, "vector", variant="salient").shape == (3, 2)


def test_an_empty_cell_does_not_make_numbers_words():
    rows = np.arange(4)
    for empty in (None, "", float("nan"), "nan"):
        values, classes = attribute_values([1.0, 3.0, empty, 2.0], rows)
        assert not classes
        np.testing.assert_allclose(values, [0, 1, np.nan, 0.5])
    assert attribute_values(["a", "b", None, "a"], rows)[1]


def test_an_attribute_that_is_no_column_is_named(table):
    with pytest.raises(InputError, match=r"--attributes: there is no column 'sise'\. Did you mean 'size'"):
        prepared(table, attributes="sise")


def test_the_papers_views_of_images_are_left_out_for_numbers(table):
    made = prepared(table, {"preset": "paper"})
    assert made.method.plan.modality == "vector"
    assert any("the paper's views are for" in note for note in made.notes)
