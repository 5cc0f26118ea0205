"""SupReMix as a method: its options, one step, errors, and the way of a user with a table of numbers."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses import supremix
from nearfar.methods.regressing import Regressor
from nearfar.methods.regression.supremix import auto_unit
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.losses import reference

ROWS = 120
SMALL = {"vector_width": 16, "vector_layers": 1}


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4))
    price = 40 * x[:, 0] + 10 * x[:, 1] ** 2 + rng.normal(size=ROWS)
    with open(tmp_path / "houses.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rooms", "age", "noise_a", "noise_b", "price"])
        for i, (row, y) in enumerate(zip(x, price, strict=True)):
            writer.writerow([*(f"{v:.5f}" for v in row), "" if i % 40 == 7 else f"{y:.3f}"])
    return tmp_path / "houses.csv"


def prepared(table, settings=None, **options):
    data = nearfar.data(table, roles={"target": "price"})
    settings = {"batch_size": 8, "steps": 6, "warmup": 0, **SMALL} | (settings or {})
    return building.prepare("supremix", data, TrainSettings(**settings), options)


def embedded(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    return made.method.encode(batch), batch


def test_the_unit_is_a_sixteenth_of_the_deviation(table):
    made = prepared(table)
    values = made.method.values.astype(float)
    assert made.resolved["target_unit"] == made.method.unit == pytest.approx(values.std() / 16)
    assert auto_unit(np.arange(0.0, 320.0)) == pytest.approx(np.arange(320).std() / 16)
    assert auto_unit(np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 20)) == 1, "ratings: the gap between neighbours"
    assert prepared(table, target_unit=2.5).method.unit == 2.5


def test_a_window_without_a_lower_and_a_higher_row_is_refused(table):
    with pytest.raises(InputError, match="no mixed positives"):
        prepared(table, target_unit=1e-9)
    assert prepared(table, target_unit=1e-9, mix="negatives").method.unit == 1e-9


@pytest.mark.parametrize(("mix", "shares", "window"), [("both", True, True), ("negatives", True, False),
                                                       ("positives", False, True), ("none", False, False)])  # fmt: skip
def test_each_ablation_leaves_out_its_mixtures(table, mix, shares, window):
    made = prepared(table, mix=mix, window=9.0, mask_duplicates=False, target_unit=3.0)
    made.method.eval()
    z, batch = embedded(made)
    drawn = np.random.default_rng((batch.random_seed, 0)).beta(2, 8, size=(16, 16)).astype(np.float32)
    wanted = reference.supremix(torch.cat(z["views"]).detach(), batch.values.double().repeat(2) / 3.0,
                                shares=drawn if shares else None, window=9.0 if window else None)  # fmt: skip
    assert made.method.loss(z, batch).total.item() == pytest.approx(wanted, rel=1e-5)


def test_the_batch_in_parts(table):
    """`pool` contrasts parts of the batch, both views of an item in one; with itself alone an item has loss 0."""
    made = prepared(table, pool=2, mix="positives", mask_duplicates=False)
    made.method.eval()
    z, batch = embedded(made)
    halves = [supremix(torch.cat([v[s] for v in z["views"]]), (batch.values[s].double() / made.method.unit).repeat(2))
              for s in (slice(0, 4), slice(4, 8))]  # fmt: skip
    assert made.method.loss(z, batch).total.item() == pytest.approx(sum(halves).item() / 2, rel=1e-6)
    alone = prepared(table, pool=8).method
    assert alone.loss(z, batch).total.item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match="--pool 9 parts of a batch of 8"):
        prepared(table, pool=9)


def test_equal_items_with_other_numbers_are_no_negatives(table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:40] + [line.rpartition(",")[0] + f",{k}" for k, line in enumerate(lines[1:40])]))
    made = prepared(table, {"batch_size": 48})
    made.method.eval()
    z, batch = embedded(made)
    ids = batch.content["vector"].repeat(2).tolist()
    never = {(i, k) for i in range(96) for k in range(96) if ids[i] == ids[k]}
    drawn = np.random.default_rng((batch.random_seed, 0)).beta(2, 8, size=(96, 96)).astype(np.float32)
    y = batch.values.double().repeat(2) / made.method.unit
    wanted = reference.supremix(torch.cat(z["views"]).detach(), y, shares=drawn, never=never)
    loss = made.method.loss(z, batch)
    assert len(never) > 2 * 96, "some are twice in the batch"
    assert loss.total.item() == pytest.approx(wanted, rel=1e-5)
    assert loss.terms["masked"] > 0


def test_errors(table, tmp_path):
    with pytest.raises(InputError, match=r"'supremix' needs a column of any kind \+ target"):
        nearfar.fit("supremix", table, out=tmp_path / "run")
    words = tmp_path / "words.csv"
    words.write_text(table.read_text().replace("\n", ",much\n").replace("price,much", "price,words"))
    with pytest.raises(InputError, match=r"words\.csv, line 2: the target 'much' is not a number"):
        nearfar.fit("supremix", words, target="words", vector="rooms,age", out=tmp_path / "run")
    still = tmp_path / "still.csv"
    still.write_text("\n".join(["a,b,price", *(f"{i * i % 7}.5,{i % 5},3" for i in range(40))]))
    with pytest.raises(InputError, match=r"'price' is 3 in all 29 training rows: there is nothing to learn from"):
        nearfar.fit("supremix", still, target="price", out=tmp_path / "run")
    with pytest.raises(InputError, match="'mix' must be"):
        nearfar.fit("supremix", table, target="price", mix="some", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_regressor_is_ridge_with_the_penalty_of_leaving_one_out():
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 5)) * [1, 9, 1, 1, 0] + 3
    y = z[:, 0] * 2 + rng.normal(size=40)
    scale = StandardScaler().fit(z)
    wanted = RidgeCV(alphas=40 * np.logspace(-5, 2, 15)).fit(scale.transform(z), y).predict(scale.transform(z))
    found = Regressor(5).fit(z, y).linear(torch.from_numpy(z).float())[:, 0]
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_from_a_table_to_predictions(table, tmp_path, capsys):
    """fit, evaluate, embed, search, predict and report, from the command line."""
    run, small = str(tmp_path / "run"), ["--vector-width", "16", "--vector-layers", "1"]
    assert main(["fit", "supremix", str(table), "--target", "price", "--steps", "60", "--lr", "0.01", *small,
                 "--batch-size", "32", "--out", run, "--device", "cpu"]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert "measured by: Mean absolute error of 'price'" in told
    assert "training rows without a target are left out" in told
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["summary"]["kind"] == "regression"
    test = nearfar.data(table, roles={"target": "price"})
    assert main(["evaluate", run, str(table), "--target", "price"]) == 0
    assert main(["embed", run, str(table), "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "0.5,0.1,0,0"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    assert "Largest errors of &#39;price&#39;" in (tmp_path / "report.html").read_text()
    found = nearfar.predict(run, table, on="test", target="price")
    rows = test.splits["test"]
    known = np.isfinite(test.target_values[rows])
    told, truth = np.array(found.columns["prediction"])[known], test.target_values[rows][known]
    assert found.keys == [test.keys[row] for row in rows]
    assert np.abs(told - truth).mean() < 0.7 * np.abs(truth - truth.mean()).mean()


def test_large_numbers_keep_their_differences(tmp_path):
    """Dates and counts above float32's precision are neither merged nor rounded."""
    rows = [f"{i % 7},{i % 5},{1_700_000_000 + i}" for i in range(40)]
    (tmp_path / "t.csv").write_text("a,b,when\n" + "\n".join(rows))
    data = nearfar.data(tmp_path / "t.csv", roles={"target": "when", "vector": ["a", "b"]})
    assert np.unique(data.target_values).tolist() == [1_700_000_000 + i for i in range(40)]
