"""The regression task: against scikit-learn, on data with gaps, and what it promises."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.preprocessing import StandardScaler

import nearfar
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.evaluation.regression import PENALTIES, Fit, ordering, ridge_probe

N = 240


def drawn(n=N, d=6, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) * [1, 100, 0.01, 1, 1, 1] + 3
    return z, z[:, 0] * 3 + z[:, 1] / 50 + rng.normal(size=n)


def split_in_three(z, y):
    return z[:120], y[:120], z[120:180], y[120:180], z[180:], y[180:]


@pytest.fixture
def table(tmp_path):
    z, y = drawn()
    cells = [[*(f"{x:.6g}" for x in row), f"{v:.6g}", i % 2] for i, (row, v) in enumerate(zip(z, y, strict=True))]
    for i in range(0, N, 30):
        cells[i][6] = ("", "nan")[i // 30 % 2]
    lines = [",".join(map(str, row)) for row in cells]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,c,d,e,f,price,label", *lines]) + "\n")
    return path


def opened(path, **roles):
    return nearfar.data(path, roles={"target": "price"} | roles)


class Plain:
    """The numbers themselves as vectors."""

    def __init__(self, data):
        self.data = data

    def __call__(self, role, rows):
        return self.data.facts("values", role)[rows]


def naive(z, y, held_z, held_y, test_z):
    """Every penalty by scikit-learn; predictions of the best one."""
    scale, best = StandardScaler().fit(z), None
    for penalty in PENALTIES:
        model = Ridge(alpha=penalty * len(z)).fit(scale.transform(z), y)
        error = mean_absolute_error(held_y, model.predict(scale.transform(held_z)))
        if best is None or error <= best[0]:
            best = error, model.predict(scale.transform(test_z)), penalty
    return best[1], best[2]


@pytest.mark.parametrize("d", [6, 200])
def test_the_probe_is_ridge_with_the_penalty_of_the_validation_part(d):
    z, y = drawn()
    z = np.concatenate([z, np.random.default_rng(1).normal(size=(N, d - 6))], 1) if d > 6 else z
    parts = split_in_three(z, y)
    fit = ridge_probe(*parts)
    wanted, penalty = naive(*parts[:5])
    assert fit.penalty == penalty
    np.testing.assert_allclose(fit.predicted, wanted, rtol=1e-6, atol=1e-6)
    assert fit.metrics["mae"] == pytest.approx(mean_absolute_error(parts[5], wanted))
    assert fit.metrics["r2"] == pytest.approx(r2_score(parts[5], wanted))
    assert fit.metrics["pearson"] == pytest.approx(np.corrcoef(parts[5], wanted)[0, 1])
    assert fit.metrics["gm"] == pytest.approx(np.exp(np.log(np.abs(parts[5] - wanted)).mean()))


def test_units_of_vectors_and_constant_dimensions_change_nothing():
    z, y = drawn()
    first = ridge_probe(*split_in_three(z, y)).predicted
    moved = np.concatenate([z * 1e3 + 7, np.full((N, 2), 5.0)], 1)
    np.testing.assert_allclose(ridge_probe(*split_in_three(moved, y)).predicted, first, rtol=1e-6)
    np.testing.assert_allclose(ridge_probe(*split_in_three(z, y * 100 - 9)).predicted, first * 100 - 9, rtol=1e-6)
    nothing = ridge_probe(*split_in_three(np.ones((N, 3)), y))
    np.testing.assert_allclose(nothing.predicted, y[:120].mean())


def test_the_order_of_distances():
    angles = np.random.default_rng(0).uniform(0, 1.5, 9)
    z = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert ordering(z, angles) == pytest.approx(1)
    assert ordering(z, -(angles**3)) < 1
    z, y = drawn(30)
    i, j = np.triu_indices(30, 1)
    u = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert ordering(z, y) == pytest.approx(spearmanr(np.abs(y[i] - y[j]), 1 - (u[i] * u[j]).sum(1))[0], abs=1e-6)
    assert ordering(z[:2], y[:2]) == ordering(z, np.ones(30)) == 0


def test_a_number_named_as_the_target_chooses_the_task(table):
    assert task_for(opened(table)).kind == "regression"
    assert task_for(nearfar.data(table)).kind == "labels"
    classes = opened(table, target="label", label=["label"])
    assert task_for(classes).kind == "labels", "a column of labels holds classes, whatever their names"
    assert task_for(classes, "regression").kind == "regression"
    with pytest.raises(InputError, match="--target COLUMN"):
        task_for(nearfar.data(table), "regression")


def test_rows_without_a_number_are_skipped_and_counted(table):
    data = opened(table)
    task, values = task_for(data), np.asarray(data.target_values)
    missing = {split: int(np.isnan(values[rows]).sum()) for split, rows in data.splits.items()}
    assert sum(missing.values()) == N // 30
    scores = task.evaluate(Plain(data), "test", examples=3)
    known = [np.sort(rows[np.isfinite(values[rows])]) for rows in (data.splits[s] for s in ("train", "val", "test"))]
    z = data.facts("values", "vector")
    train, held, test = known
    wanted, _ = naive(z[train], values[train], z[held], values[held], z[test])
    assert scores.primary == pytest.approx(mean_absolute_error(values[test], wanted), rel=1e-4)
    assert scores.counts["rows"] == {"queries": len(test), "skipped": missing["test"], "gallery": len(train)}
    low, high = scores.bootstrap().bounds
    assert low < scores.primary < high
    json.dumps(scores.to_dict())
    thirds = [scores.directions[f"{name} third"]["mae"] for name in ("lowest", "middle", "highest")]
    sizes = np.bincount(np.searchsorted(np.quantile(values[train].astype(float), [1 / 3, 2 / 3]), values[test]))
    assert np.average(thirds, weights=sizes) == pytest.approx(scores.primary)
    shown = scores.tables[0].rows
    assert [float(row[3]) for row in shown] == sorted((float(row[3]) for row in shown), reverse=True)
    assert float(shown[0][3]) == pytest.approx(np.abs(wanted - values[test]).max(), rel=1e-2)


def test_validation_rows_are_not_used_to_choose_their_own_penalty(table):
    task = task_for(opened(table))
    fit, chosen, test = task.probe_rows("val")
    assert not set(fit) & set(chosen)
    assert not set(test) & (set(fit) | set(chosen))
    assert set(test) <= set(task.data.splits["val"])


def test_references_are_the_mean_and_ridge_on_the_raw_numbers(table):
    data = opened(table)
    task = task_for(data)
    rows = {one.label: one.evaluate("test") for one in references(data, task)}
    values, test = np.asarray(data.target_values, float), task.numbered("test")
    mean = np.nanmean(values[data.splits["train"]])
    assert rows["mean predictor"].primary == pytest.approx(np.abs(values[test] - mean).mean())
    assert rows["mean predictor"].metrics["r2"] == pytest.approx(0, abs=0.1)
    assert rows["raw numbers"].primary == pytest.approx(task.evaluate(Plain(data), "test").primary, rel=1e-3)
    assert rows["raw numbers"].primary < 0.7 * rows["mean predictor"].primary
    assert set(rows) == {"mean predictor", "raw numbers", "PCA"}


def test_texts_have_word_counts_beside(tmp_path):
    rng, kinds = np.random.default_rng(0), ["red", "green", "blue", "old", "new"]
    lines = [" ".join(rng.choice(kinds, 4)) for _ in range(200)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,count", *(f"{t},{t.split().count('red')}" for t in lines)]) + "\n")
    data = nearfar.data(path, roles={"target": "count"})
    rows = {one.label: one.evaluate("test").primary for one in references(data, task_for(data))}
    assert rows["TF-IDF"] < 0.5 * rows["mean predictor"]


@pytest.mark.parametrize(("change", "told"), [
    (lambda y, split: np.where(split == "train", 5.0, y), "same number in all training rows"),
    (lambda y, split: np.where(split == "test", np.nan, y), "No row of the test split has a number"),
    (lambda y, split: np.where(split != "test", np.nan, y), "No row of the train split has a number"),
])  # fmt: skip
def test_numbers_that_tell_nothing(tmp_path, change, told):
    z, y = drawn()
    split = np.repeat(["train", "val", "test"], 80)
    rows = [
        f"{a},{b},{'' if np.isnan(v) else v},{s}"
        for (a, b), v, s in zip(z[:, :2], change(y, split), split, strict=True)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,price,split", *rows]) + "\n")
    data = opened(path)
    with pytest.raises(InputError, match=told):
        task_for(data).evaluate(Plain(data), "test")


@pytest.mark.parametrize(("part", "told"), [
    ({0: np.zeros((0, 2)), 1: np.zeros(0)}, "No item of the training part"), ({3: np.ones(3)}, "4 embeddings and 3"),
    ({5: np.array([1, np.nan, 2, 3])}, "not all finite"),
])  # fmt: skip
def test_wrong_inputs_of_the_probe(part, told):
    parts = [np.eye(4)[:, :2], np.arange(4.0)] * 3
    for place, value in part.items():
        parts[place] = value
    with pytest.raises(InputError, match=told):
        ridge_probe(*parts)


def test_metrics_of_one_item_and_of_exact_predictions():
    one = Fit(np.array([1.0]), np.array([3.0]), 1.0).metrics
    assert one["mae"] == 2
    assert np.isnan(one["r2"])
    exact = Fit(np.arange(3.0), np.arange(3.0), 1.0).metrics
    assert exact["mae"] == 0
    assert exact["r2"] == 1
