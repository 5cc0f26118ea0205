"""L1 regression: its equation, its answer in the target's own unit, errors, and that it learns."""

import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.encoders import image
from nearfar.errors import InputError
from nearfar.methods.regressing import Regressor, absolute_error
from nearfar.methods.regression.l1_regression import L1Regression
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from nearfar.views import build

SMALL = {"vector_width": 16, "vector_layers": 1}


@pytest.fixture
def table(tmp_path):
    """120 rows of two numbers; the price stands in the thousands and lacks in some."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    lines = [f"{a:.5f},{b:.5f}," + ("" if i % 40 == 7 else f"{9000 + 300 * a:.2f}") for i, (a, b) in enumerate(x)]
    (tmp_path / "houses.csv").write_text("\n".join(["rooms,age,price", *lines]) + "\n")
    return tmp_path / "houses.csv"


def test_the_error_is_the_mean_distance():
    predicted = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([0.5, 6.0, -2.5], dtype=torch.float64)
    assert absolute_error(predicted, values).item() == pytest.approx((0.5 + 2 + 0.5) / 3)
    assert torch.autograd.gradcheck(lambda p: absolute_error(p, values), (predicted,))
    assert absolute_error(predicted[:0], values[:0]).item() == 0
    assert absolute_error(values.half(), values.half()).item() == 0


def test_a_step_is_in_deviations_and_the_curve_in_the_own_unit(table):
    data = nearfar.data(table, roles={"target": "price"})
    made = building.prepare("l1-regression", data, TrainSettings(batch_size=8, steps=4, warmup=0, **SMALL), {})
    batch, method = made.loader.at(0), made.method.eval()
    batch.views = method.make_views(batch)
    embedded = method.encode(batch)
    known = data.target_values[made.rows]
    assert np.isfinite(known).all()
    wanted = (batch.values.numpy() - known.mean()) / known.std()
    error = np.abs(embedded["predicted"].detach().numpy() - wanted).mean()
    loss = method.loss(embedded, batch)
    assert loss.total.item() == pytest.approx(error, rel=1e-5)
    assert float(loss.terms["absolute_error"]) == pytest.approx(error * known.std(), rel=1e-5)
    told = method.inference().linear(embedded["features"])[:, 0].detach().numpy()
    assert told == pytest.approx(embedded["predicted"].detach().numpy() * known.std() + known.mean(), rel=1e-5)


def test_a_regressor_is_restored_with_its_vectors():
    made = Regressor(3, raw=True)
    assert Regressor(**made.config()).raw
    assert not Regressor(**{"dim": 3}).raw, "models saved before told unit vectors"


def test_from_a_table_to_predictions(table, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["fit", "l1-regression", str(table), "--target", "price", "--steps", "300", "--lr", "0.01",
                 "--vector-width", "16", "--vector-layers", "1", "--batch-size", "32", "--out", run, "--device", "cpu",
                 "--views", "noise"]) == 0  # fmt: skip
    assert "training rows without a target are left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["summary"]["kind"] == "regression"
    found, data = nearfar.predict(run, table, on="test", target="price"), nearfar.data(table, roles={"target": "price"})
    truth = data.target_values[data.splits["test"]]
    known = np.isfinite(truth)
    errors = np.abs(np.array(found.columns["prediction"])[known] - truth[known])
    assert errors.mean() < 0.5 * np.abs(truth[known] - truth[known].mean()).mean()


def test_wrong_targets(table, tmp_path):
    with pytest.raises(InputError, match=r"'l1-regression' needs a column of any kind \+ target"):
        nearfar.fit("l1-regression", table, out=tmp_path / "run")
    still = tmp_path / "still.csv"
    still.write_text("\n".join(["a,b,price", *(f"{i * i % 7}.5,{i % 5},3" for i in range(40))]))
    with pytest.raises(InputError, match=r"'price' is 3 in all 29 training rows: there is nothing to learn from"):
        nearfar.fit("l1-regression", still, target="price", out=tmp_path / "run")
    with pytest.raises(InputError, match="show rows of a group together"):
        L1Regression(image("small", size=32), views=build("members"))
    assert not (tmp_path / "run").exists()
