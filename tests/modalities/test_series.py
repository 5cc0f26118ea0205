"""Time series: what is read, what is told, how they are encoded, and the whole way from the command line."""

import csv
import json
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.svm import SVC

import nearfar
from nearfar import cli, modalities
from nearfar.encoders.series import SeriesEncoder, padded, pooled
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.evaluation.forecasting import anchors, seasonal
from nearfar.evaluation.series import dtw, minirocket, raw_values, resampled
from nearfar.views import build
from nearfar.views.series import crop, mask_steps
from tests.conftest import write_series

HEAD = ["@univariate true", "@equalLength true", "@seriesLength 3", "@missing false", "@classLabel true a b", "@data"]


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def table(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def items(data):
    return modalities.get("series").items(data, "series")


def good(n=12):
    return [f"{k},{k * k % 5},{-k}:{'ab'[k % 2]}" for k in range(n)]


def test_ts_files_of_one_folder_give_the_splits(tmp_path):
    head = ["# a comment", "@problemName Waves", "@univariate false", "@dimensions 2", "@classLabel true a b", "@data"]
    write(tmp_path / "Waves_TRAIN.ts", [*head, *(f"{k},2,?:0,1,{k}:{'ab'[k % 2]}" for k in range(20))])
    write(tmp_path / "Waves_TEST.ts", [*head, *(f"{k},1:5,{k}:{'ab'[k % 2]}" for k in range(6))])
    for path in (tmp_path, tmp_path / "Waves_TRAIN.ts"):
        data = nearfar.data(path)
        assert len(data) == 26
        assert sorted(data.splits["test"]) == [row for row in range(26) if "TEST" in data.keys[row]]
        assert data.roles["series"] == ["channel_0", "channel_1"]
        assert data.label_names == {"label": ["a", "b"]}
        found = items(data)
        row = next(r for r in range(26) if data.keys[r] == "Waves_TRAIN.ts:10")
        assert np.array_equal(found[row], [[3, 0], [2, 1], [np.nan, 3]], equal_nan=True)
        assert {len(one) for one in found} == {2, 3}
        assert any("20 of 144 values are missing, in 20 series" in note for note in data.notes)
    write(tmp_path / "Other_TRAIN.ts", [*head, "1,2:3,4:a"])
    with pytest.raises(InputError, match="holds the series of 2 data sets: Other, Waves"):
        nearfar.data(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1,2,x:a", r"channel 0, step 2: 'x' is not a number"),
        ("1,2,3:c", r"the class 'c' is none of those in the header \(a, b\)"),
        ("1,2,3", r"the label is missing: there are 1 channels and nothing behind them"),
        ("1,2,3:", r"the label is missing behind the last colon"),
        ("1,2,3:4,5,6:a", r"there are 2 channels, the header says 1"),
        ("?,?,NaN:a", r"the series is empty: it holds no value"),
        (":a", r"the series is empty"),
    ],
)
def test_a_line_that_is_no_series_is_told_and_may_be_left_out(tmp_path, line, says):
    path = write(tmp_path / "t.ts", [*HEAD, *good(), line])
    with pytest.raises(InputError, match=rf"t\.ts, line {len(HEAD) + 13}: {says}"):
        nearfar.data(path)
    data = nearfar.data(path, unreadable="skip")
    assert len(data) == 12
    assert len(data.problems) == 1


def test_channels_of_unlike_lengths_in_a_file(tmp_path):
    path = write(tmp_path / "t.ts", ["@univariate false", "@data", *["1,2:3,4"] * 9, "1,2:3"])
    with pytest.raises(InputError, match=r"t\.ts, line 12: its channels have 1 and 2 steps"):
        nearfar.data(path)


def test_a_header_that_lies_is_told(tmp_path):
    path = write(tmp_path / "t.ts", [*HEAD, *good(), "1,?,3,4:a"])
    notes = nearfar.data(path).notes
    assert any("header says that all series are of equal length; they have 3 to 4 steps" in note for note in notes)
    assert any("header says that no value is missing; some are in 1 series" in note for note in notes)
    head = [line.replace("3", "9") for line in HEAD]
    head[0] = "@univariate false"
    notes = nearfar.data(write(path, [*head, *good()])).notes
    assert any("the header says 9 steps; the series have 3" in note for note in notes)
    assert any("header says that there are several channels; there is one" in note for note in notes)
    with pytest.raises(InputError, match="has no @data line"):
        nearfar.data(write(path, HEAD[:-1]))
    with pytest.raises(InputError, match=r"line 1: there is no @data line before the first series"):
        nearfar.data(write(path, good()))


def test_stamps_in_a_file_set_the_order(tmp_path):
    head = ["@timestamps true", "@univariate true", "@classLabel true a b", "@data"]
    lines = [f"(2024-01-03 00:00:00,{k}),(2024-01-01 00:00:00,1):{'ab'[k % 2]}" for k in range(8)]
    data = nearfar.data(write(tmp_path / "t.ts", [*head, *lines]))
    assert items(data)[5].ravel().tolist() == [1, 5]
    with pytest.raises(InputError, match=r"line 13: channel 0: two values have one time"):
        nearfar.data(write(tmp_path / "t.ts", [*head, *lines, "(1,5),(1,6):a"]))


def test_numbers_to_tell_in_a_file(tmp_path):
    lines = [f"{k},{k + 1}:{k / 2}" for k in range(12)]
    data = nearfar.data(write(tmp_path / "t.ts", ["@univariate true", "@targetlabel true", "@data", *lines]))
    assert data.target_values.tolist() == [k / 2 for k in range(12)]
    assert task_for(data).kind == "regression"


def test_lists_of_unlike_lengths_are_found_and_columns_are_channels(tmp_path):
    x = [np.arange(8.0 + k) for k in range(12)]
    x[3][2] = np.nan
    pq.write_table(pa.table({"s": x, "y": [k % 2 for k in range(12)]}), tmp_path / "t.parquet")
    data = nearfar.data(tmp_path / "t.parquet")
    assert data.roles == {"series": ["s"], "label": ["y"]}
    assert all(np.array_equal(a.ravel(), b, equal_nan=True) for a, b in zip(items(data), x, strict=True))
    pq.write_table(pa.table({"s": x, "t": [one[1:] for one in x]}), tmp_path / "u.parquet")
    with pytest.raises(InputError, match=r"u\.parquet, row 0: column 't': it has 7 steps, 's' has 8"):
        nearfar.data(tmp_path / "u.parquet", roles={"series": ["s", "t"]})
    pq.write_table(pa.table({"s": [*x, np.array([])]}), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=r"v\.parquet, row 12: column 's': the series is empty"):
        nearfar.data(tmp_path / "v.parquet")
    x[4][1] = np.inf
    pq.write_table(pa.table({"s": x}), tmp_path / "w.parquet")
    with pytest.raises(InputError, match=r"w\.parquet, row 4: column 's': step 1 is not a finite number"):
        nearfar.data(tmp_path / "w.parquet")
    path = table(tmp_path / "t.csv", ["series"], [[str(one.tolist())] for one in x[:4]] + [["[1, a]"]])
    with pytest.raises(InputError, match=r"line 6: column 'series': step 1, 'a', is not a finite number"):
        nearfar.data(path, roles={"series": "series"})


def test_columns_of_steps(tmp_path):
    rows = [[k, k + 1, "" if k % 2 else k + 2, "ab"[k % 2]] for k in range(12)]
    data = nearfar.data(table(tmp_path / "t.csv", ["step_0", "step_1", "step_2", "label"], rows),
                        roles={"series": "step_*"})  # fmt: skip
    assert [len(one) for one in items(data)] == [3, 2] * 6
    assert items(data)[4].ravel().tolist() == [4, 5, 6]
    assert not any("do not rise" in note for note in data.notes)
    mixed = table(tmp_path / "m.csv", ["step_1", "step_10", "step_2"], [[k, k * k % 7, k + 1] for k in range(12)])
    data = nearfar.data(mixed, roles={"series": "step_*"})
    assert items(data)[3].ravel().tolist() == [3, 2, 4]
    assert any("their numbers do not rise (step_1, step_10, step_2, ...)" in note for note in data.notes)


def test_arrays(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 5, 2))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    data = nearfar.data(tmp_path / "x.npz")
    assert np.allclose(np.stack(items(data)), x)
    assert data.label_names == {"y": ["0", "1"]}
    np.savez(tmp_path / "x.npz", x=x.transpose(0, 2, 1))
    assert any("if it is (series, channels, steps), save x.transpose(0, 2, 1)" in n for n in nearfar.data(
        tmp_path / "x.npz").notes)  # fmt: skip
    np.savez(tmp_path / "x.npz", x=x[:, :, 0], y=np.arange(20) % 2)
    assert "vector" in nearfar.data(tmp_path / "x.npz").roles


def long_rows(n=8, steps=6):
    return [[f"s{k}", f"2024-01-0{1 + t}", k + t / 10, "ab"[k % 2], t] for k in range(n) for t in range(steps)]


HEADER = ["series_id", "time", "load", "label", "hour"]


def test_long_tables(tmp_path):
    rows = long_rows()
    np.random.default_rng(0).shuffle(rows)
    data = nearfar.data(table(tmp_path / "t.csv", HEADER, rows), roles={"series": "load"})
    order = {key: row for row, key in enumerate(data.keys)}
    assert np.allclose(items(data)[order["s3"]].ravel(), 3 + np.arange(6) / 10)
    assert data.label_names == {"label": ["a", "b"]}
    assert any("8 series did not stand in order of 'time': they are sorted" in note for note in data.notes)
    assert "hour" not in data.table.column_names
    both = nearfar.data(table(tmp_path / "t.csv", HEADER, rows))
    assert both.roles["series"] == ["load", "hour"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({1: "2024-01-01"}, r"line 3: column 'time': the time '2024-01-01' stands twice in the series 's0'"),
        ({1: ""}, r"line 3: column 'time': the time is empty"),
        ({1: "noon"}, r"line 3: column 'time': 'noon' is not a time"),
        ({0: ""}, r"line 3: column 'series_id': the name of the series is empty"),
        ({2: "x"}, r"line 3: column 'load': 'x' is not a finite number"),
    ],
)
def test_a_wrong_row_of_a_long_table_is_told_and_may_be_left_out(tmp_path, change, says):
    rows = long_rows()
    for place, value in change.items():
        rows[1][place] = value
    path = table(tmp_path / "t.csv", HEADER, rows)
    with pytest.raises(InputError, match=says):
        nearfar.data(path, roles={"series": "load"})
    data = nearfar.data(path, roles={"series": "load"}, unreadable="skip")
    assert len(items(data)[0]) == 5
    assert len(data.problems) == 1


def test_uneven_stamps_and_labels_that_change_are_told(tmp_path):
    rows = long_rows()
    rows[5][1] = "2024-02-20"
    rows[7][3] = "a"
    data = nearfar.data(table(tmp_path / "t.csv", HEADER, rows), roles={"series": "load"})
    assert any("steps of time are uneven in 1 of 8 series (usually 86400, up to 3.97" in n for n in data.notes)
    assert any("'label' changes within 1 of 8 series: it is empty there" in note for note in data.notes)
    assert data.labels["label"].tolist()[1] == -1


def test_one_long_series_is_cut_in_order_of_time(tmp_path):
    path = tmp_path / "t.csv"
    rows = [[str(np.datetime64("2000-01-01") + k).replace("-", ""), k] for k in range(203)]
    with pytest.raises(InputError, match=r"holds 1 series of up to 203 steps; .*\n?.*--series-window 128"):
        nearfar.data(table(path, ["date", "x"], rows), roles={"series": "x", "time": "date"})
    data = nearfar.data(path, window=20)
    assert [one[0, 0] for one in items(data)] == list(range(3, 203, 20))
    assert {name: part.tolist() for name, part in data.splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5], "val": [6, 7], "test": [8, 9]}  # fmt: skip
    assert any("cut into 10 windows of 20 steps, in order of time 60/20/20" in note for note in data.notes)
    kind = modalities.get("series")
    encoder = kind.encoder(kind.resolve(kind.options(), data), data, 0)
    assert float(encoder.mean) == pytest.approx(np.arange(3, 123).mean())
    assert encoder.pool == "last"
    with pytest.raises(InputError, match="only 1 windows of 200 steps"):
        nearfar.data(path, window=200)
    with pytest.raises(InputError, match="holds no series that --series-window could cut"):
        nearfar.data("emoji", limit=20, window=5)


def test_series_in_cells_are_cut_within_their_split(tmp_path):
    write_series(tmp_path / "w.ts", rows=12)
    whole, data = nearfar.data(tmp_path / "w.ts"), nearfar.data(tmp_path / "w.ts", window=10)
    parts = [len(one) // 10 for one in items(whole)]
    assert len(data) == sum(parts)
    assert np.array_equal(items(data)[parts[0] - 1], items(whole)[0][-10:], equal_nan=True)


def test_series_that_never_change_are_told(tmp_path):
    rows = [[5] * 4] * 3 + [[k, k + 1, k, 7 * k] for k in range(12)]
    data = nearfar.data(table(tmp_path / "t.csv", ["a", "b", "c", "d"], rows), roles={"series": ["a", "b", "c", "d"]})
    assert any("3 of 15 series never change" in note for note in data.notes)
    encoder = SeriesEncoder(["x"], dim=8, depth=2).standardise([np.full((4, 1), 5.0)])
    assert torch.isfinite(encoder(encoder.prepare([np.full((4, 1), 5.0)]))).all()


def small(channels=2, **more):
    torch.manual_seed(0)
    return SeriesEncoder([f"c{i}" for i in range(channels)], **{"dim": 6, "width": 5, "depth": 2} | more).eval()


@pytest.mark.parametrize("more", [{}, {"scales": 3}, {"pool": "mean"}, {"pool": "last"}])
def test_a_series_gives_the_same_vector_in_any_batch(more):
    encoder, rng = small(**more), np.random.default_rng(0)
    series = [rng.normal(size=(n, 2)).astype(np.float32) for n in (3, 17, 9)]
    series[1][4, 0] = series[2][2] = np.nan
    together = encoder(encoder.prepare(series))
    alone = torch.cat([encoder(encoder.prepare([one])) for one in series])
    assert torch.allclose(together, alone, atol=1e-6)
    assert (encoder.steps(encoder.prepare(series))[0, 3:] == 0).all()


def naive_steps(encoder, x):
    """The vectors of the steps of one series without missing values, written step by step."""
    h = ((x - encoder.mean) / encoder.std) @ encoder.enter.weight.T + encoder.enter.bias

    def conv(layer, h):
        kernel, out = layer.weight.shape[2], []
        for t in range(len(h)):
            total = layer.bias.clone()
            for k in range(kernel):
                place = t - layer.padding[0] + k * layer.dilation[0]
                if 0 <= place < len(h):
                    total = total + layer.weight[:, :, k] @ h[place]
            out.append(total)
        return torch.stack(out)

    gelu = torch.nn.functional.gelu
    for block in encoder.blocks:
        beside = h if block.beside is None else conv(block.beside, h)
        h = conv(block.second, gelu(conv(block.first, gelu(h)))) + beside
    if encoder.scales:
        h = torch.stack([conv(layer, h) for layer in encoder.causal]).mean(0)
    return h


@pytest.mark.parametrize("scales", [0, 3])
def test_the_encoder_is_the_dilated_network(scales):
    encoder = small(scales=scales).double()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(11, 2)))
    assert torch.allclose(encoder.steps(x[None])[0], naive_steps(encoder, x), atol=1e-10)
    assert [block.first.dilation[0] for block in encoder.blocks] == [1, 2, 4]
    assert torch.allclose(encoder(x[None])[0], naive_steps(encoder, x).amax(0))


def test_missing_values_count_as_the_mean_and_steps_may_be_hidden():
    encoder = small().standardise([np.random.default_rng(0).normal(3, 2, size=(50, 2))])
    x = torch.randn(1, 6, 2)
    hole, filled = x.clone(), x.clone()
    hole[0, 2, 1], filled[0, 2, 1] = torch.nan, encoder.mean[1]
    assert torch.allclose(encoder.steps(hole), encoder.steps(filled), atol=1e-6)
    hole[0, 2] = torch.nan
    keep = torch.ones(1, 6, dtype=torch.bool)
    keep[0, 2] = False
    assert torch.allclose(encoder.steps(hole), encoder.steps(x, keep), atol=1e-6)
    assert torch.equal(pooled(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool), "max"), torch.zeros(1, 3))


def test_items_that_are_no_series():
    encoder = small()
    for found, says in (
        ([[[1, 2]], [1, 2, 3]], "Item 1: this encoder takes series of 2 channels"),
        ([[[1, 2, 3]]], r"takes series of 2 channels \(c0, c1\)\. Got 3"),
        (["words"], "Item 0 is not a series of numbers"),
        ([[[1, np.inf]]], "Item 0 holds a number that is not finite"),
        ([[[np.nan, np.nan]]], "Item 0 holds no value"),
    ):
        with pytest.raises(InputError, match=says):
            encoder.prepare(found)
    assert encoder.order_of(["c1", "c0"], "there").tolist() == [1, 0]


def test_views():
    x = torch.from_numpy(padded([np.arange(20.0)[:, None] + 1, np.arange(7.0)[:, None] + 1]))
    generator = torch.Generator().manual_seed(0)
    for least in (0.3, 1.0):
        found = crop(x, generator, least)
        for row, length in ((0, 20), (1, 7)):
            kept = found[row, ~found[row, :, 0].isnan(), 0]
            assert max(1, least * length) <= len(kept) <= length
            assert (kept.diff() == 1).all()
            assert not found[row, : len(kept)].isnan().any()
    assert ((~mask_steps(x, generator, 1.0).isnan()).sum((1, 2)) == 1).all()
    assert not mask_steps(x, generator, 0.0)[0].isnan().any()
    encoder = small(1).standardise([np.random.default_rng(0).normal(10, 5, size=(400, 1))])
    many = torch.full((300, 40, 1), 10.0)
    plan = build("distort", jitter=0.5, scaling=0.0, crop=1.0, mask=0.0).bind(encoder)
    a, b = plan(many, generator)
    assert float(a.std()) == pytest.approx(0.5 * float(encoder.std), rel=0.05)
    assert not torch.equal(a, b)
    plan = build("distort", jitter=0.0, scaling=0.2, crop=1.0, mask=0.0).bind(encoder)
    a = plan(many + 5, generator)[0]
    assert float(a.std(1).max()) < 1e-5
    assert float(a[:, 0].std()) == pytest.approx(0.2 * (15 - float(encoder.mean)), rel=0.15)
    with pytest.raises(InputError, match="bind"):
        build("distort")(many, generator)


HEAVY = ["minirocket"] if find_spec("aeon") else []


def naive_dtw(a, b):
    whole = np.full((len(a) + 1, len(b) + 1), np.inf)
    whole[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            cost = ((a[i] - b[j]) ** 2).sum()
            whole[i + 1, j + 1] = cost + min(whole[i, j], whole[i, j + 1], whole[i + 1, j])
    return np.sqrt(whole[-1, -1])


def test_warping_is_that_of_loops(monkeypatch):
    rng = np.random.default_rng(0)
    a, others = rng.normal(size=(6, 2)), [rng.normal(size=(n, 2)) for n in (1, 4, 9, 6)]
    wanted = [naive_dtw(a, b) for b in others]
    assert np.allclose(dtw(a, others), wanted)
    monkeypatch.setattr("nearfar.evaluation.series.AT_ONCE", 1)
    assert np.allclose(dtw(a, others), wanted)
    assert dtw(a, [a])[0] == 0
    x = np.array([[0.0], [np.nan], [4.0]])
    assert resampled(x, 5).ravel().tolist() == [0, 1, 2, 3, 4]


def test_the_nearest_by_warping_is_the_row_of_the_leaderboard(series_few):
    task = task_for(series_few, "labels")
    row = next(one for one in references(series_few, task) if one.slug == "dtw")
    kind, labels = modalities.get("series"), series_few.labels["label"]
    train, test = series_few.splits["train"], series_few.splits["test"]
    values = np.concatenate([kind.items(series_few, "series", [r])[0] for r in train]).astype(np.float64)
    mean, std = np.nanmean(values, 0), np.nanstd(values, 0)

    def ready(r):
        x, steps = (kind.items(series_few, "series", [r])[0] - mean) / std, []
        for channel in x.T:
            known = np.flatnonzero(~np.isnan(channel))
            steps.append(np.interp(np.arange(len(x)), known, channel[known]))
        return np.stack(steps, 1)

    right = 0
    for r in test:
        distances = [naive_dtw(ready(r), ready(t)) for t in train]
        right += labels[train[int(np.argmin(distances))]] == labels[r]
    assert row.evaluate("test").metrics["knn"] == pytest.approx(right / len(test))


def test_classes_of_series_are_told_by_a_support_vector_machine_too(series_few):
    task = task_for(series_few, "labels")
    row = next(one for one in references(series_few, task) if one.slug == "raw").evaluate("test").metrics
    embed, labels = raw_values(series_few, "series"), series_few.labels["label"]
    parts = [
        (embed("series", series_few.splits[name]), labels[series_few.splits[name]]) for name in ("train", "val", "test")
    ]
    (x, y), (xv, yv), (xt, yt) = parts
    best = max((0.0001 * 10**e for e in range(9)), key=lambda c: (round(SVC(C=c).fit(x, y).score(xv, yv), 9), -c))
    assert row["svm"] == pytest.approx(SVC(C=best).fit(x, y).score(xt, yt))
    assert "svm" not in task_for(series_few, "labels", svm=False).chance("test").metrics


def test_minirocket_is_that_of_aeon(series_few):
    rocket = pytest.importorskip("aeon.transformations.collection.convolution_based").MiniRocket
    task = task_for(series_few, "labels")
    row = next(one for one in references(series_few, task) if one.slug == "minirocket")
    rows = series_few.splits["test"]
    features = minirocket(series_few, "series")("series", rows)
    kind, train = modalities.get("series"), series_few.splits["train"]
    raw = [kind.items(series_few, "series", [r])[0].astype(np.float64) for r in (*train, *rows)]
    known = np.concatenate(raw[: len(train)])
    steps = max(9, int(np.median([len(x) for x in raw[: len(train)]])))
    ready = np.stack([resampled((x - np.nanmean(known, 0)) / np.nanstd(known, 0), steps).T for x in raw])
    own = rocket(n_kernels=2016, random_state=0).fit(ready[: len(train)].astype(np.float32))
    assert np.allclose(features, own.transform(ready[len(train) :].astype(np.float32)), atol=0.02)
    assert row.evaluate("test").metrics["probe"] > task.chance("test").metrics["probe"]


def test_places_never_look_ahead():
    split = np.array([0] * 10 + [1] * 6 + [2] * 6)
    assert anchors(split, 0, 3, 4).tolist() == [2, 3, 4, 5]
    assert anchors(split, 1, 3, 4).tolist() == [9, 10, 11]
    assert anchors(split, 2, 12, 2).tolist() == [15, 16, 17, 18, 19]
    split[4] = -1
    assert anchors(split, 0, 3, 2).tolist() == [7]


def test_places_have_a_value_before_them_and_none_missing_behind_them():
    values = np.ones((22, 2))
    values[[3, 4, 5], :], values[12, 1] = np.nan, np.nan
    split = np.array([0] * 10 + [1] * 6 + [2] * 6)
    assert anchors(split, 0, 3, 2, values).tolist() == [6, 7]
    assert anchors(split, 0, 2, 2, values).tolist() == [6, 7]
    assert anchors(split, 0, 1, 2, values).tolist() == [0, 6, 7]
    assert anchors(split, 1, 3, 2, values).tolist() == [9, 12, 13]
    assert anchors(np.zeros(22), 0, 2, 1, values).tolist() == [1, *range(6, 11), *range(12, 21)]


@pytest.mark.parametrize(("holes", "told"), [("scattered", (11,)), ("none", (24, 48))])
def test_horizons_heed_missing_values(holes, told, tmp_path):
    """Every twelfth value is missing: no more than eleven steps can be told, and that is known before training."""
    values = [[k, "" if holes == "scattered" and k % 12 == 5 else k % 7] for k in range(700)]
    data = nearfar.data(table(tmp_path / "t.csv", ["time", "x"], values), window=50)
    task = task_for(data, "forecasting")
    assert task.horizons == told
    task.check()
    assert {row.slug for row in references(data, task) if row.evaluate("test").primary >= 0} >= {"raw", "seasonal"}
    if holes == "scattered":
        with pytest.raises(InputError, match=r"24 steps without a missing value.*\n?.*--horizons 11"):
            task_for(data, "forecasting", horizons="24").check()


def test_a_gap_as_long_as_the_context_is_no_place_to_tell_from(tmp_path):
    values = [[k, "" if 505 <= k < 546 else k % 7] for k in range(600)]
    path = table(tmp_path / "t.csv", ["time", "x"], values)
    run = nearfar.fit("ts2vec", path, series_window=50, series_dim=4, series_width=4, series_depth=2, steps=2,
                      task="forecasting --horizons 4 --context 20", val_every=0, out=tmp_path / "run")  # fmt: skip
    assert np.isfinite(run.scores["test"]["primary"])


def test_the_period_of_a_series():
    steps = np.arange(200.0)[:, None]
    assert seasonal(np.sin(2 * np.pi * steps / 12), 50) in (12, 24, 36, 48)
    assert seasonal(np.random.default_rng(0).normal(size=(400, 1)), 30) == 1
    assert seasonal(np.sin(2 * np.pi * steps[:100] / 60), 80) == 1  # half of the steps is no peak, it is only the end
    assert seasonal(steps[:2], 80) == 1


def test_forecasts_counted_by_hand(tmp_path):
    """The references from the raw file, with loops, without the library's parts."""
    rng, steps = np.random.default_rng(0), 400
    x = np.sin(2 * np.pi * np.arange(steps) / 10) + 0.1 * rng.normal(size=steps)
    path = table(tmp_path / "t.csv", ["time", "x"], [[k, f"{v:.5f}"] for k, v in enumerate(x)])
    data = nearfar.data(path, window=20)
    task = task_for(data, "forecasting", horizons="3,8", context=15)
    found = {row.slug: row.evaluate("test") for row in references(data, task)}
    raw = np.array([float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]])
    z = (raw - raw[:240].mean()) / raw[:240].std()

    def places(low, high, horizon, context_from):
        return [t for t in range(14, steps) if low <= t + 1 and t + horizon < high and t - 14 >= context_from]

    naive, mean, ridge = [], [], []
    for horizon in (3, 8):
        parts = [places(0, 240, horizon, 0), places(240, 320, horizon, 0), places(320, 400, horizon, 0)]
        past, future = ([np.array([z[t - 14 : t + 1] for t in part]) for part in parts],
                        [np.array([z[t + 1 : t + 1 + horizon] for t in part]) for part in parts])  # fmt: skip
        mean.append((future[2] ** 2).mean())
        naive.append(np.mean([(z[t - 9 + h % 10] - z[t + 1 + h]) ** 2 for t in parts[2] for h in range(horizon)]))
        best = None
        m, s, c = past[0].mean(0), past[0].std(0), future[0].mean(0)
        a = (past[0] - m) / s
        for penalty in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
            w = np.linalg.solve(a.T @ a + penalty * np.eye(15), a.T @ (future[0] - c))
            wrong = (past[1] - m) / s @ w + c - future[1]
            score = np.sqrt((wrong**2).mean()) + abs(wrong).mean()
            if best is None or score < best[0]:
                best = score, (((past[2] - m) / s @ w + c - future[2]) ** 2).mean()
        ridge.append(best[1])
    assert found["chance"].primary == pytest.approx(np.mean(mean), rel=1e-5)
    assert found["seasonal"].primary == pytest.approx(np.mean(naive), rel=1e-5)
    assert found["raw"].primary == pytest.approx(np.mean(ridge), rel=1e-4)
    assert found["raw"].directions["8 steps"]["mse"] == pytest.approx(ridge[1], rel=1e-4)
    assert found["raw"].primary < found["seasonal"].primary < 0.2 * found["chance"].primary
    with pytest.raises(InputError, match="has at most 80 steps in a row"):
        task_for(data, "forecasting", horizons="80").check()
    with pytest.raises(InputError, match="takes numbers divided by commas"):
        task_for(data, "forecasting", horizons="a")


def test_validation_does_not_fit_on_what_it_chooses_the_penalty_by(tmp_path):
    path = table(tmp_path / "t.csv", ["time", "x"], [[k, k * k % 17] for k in range(400)])
    task = task_for(nearfar.data(path, window=20), "forecasting", horizons="8", context=15)
    fit, held, scored = task.parts("val", 8)
    assert fit[:, 1].max() + 8 <= held[:, 1].min()
    assert held[:, 1].max() + 8 < 240 <= scored[:, 1].min() + 1


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """The commands in order, in one folder; a model that was trained on a .ts file."""
    folder = tmp_path_factory.mktemp("way")
    path = write_series(folder / "waves.ts")
    words = ["fit", "simclr", str(path), "--steps", "12", "--series-width", "8", "--series-dim", "16", "--series-depth",
             "2", "--batch-size", "32", "--val-every", "0", "--out", str(folder / "run")]  # fmt: skip
    assert cli.main(words) == 0
    return folder, path


def test_the_whole_way(way, tmp_path, capsys):
    folder, path = way

    def told(*words):
        capsys.readouterr()
        assert cli.main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    model = nearfar.load(folder / "run" / "model", verify=True)
    assert model.embed([np.zeros((5, 2)), np.ones((9, 2))]).shape == (2, 16)
    found = told("evaluate", folder / "run", path)
    assert [row["slug"] for row in found["rows"]] == ["model", "chance", "raw", "pca", *HEAVY, "dtw"]
    index = tmp_path / "index"
    assert told("embed", folder / "run", path, "--out", index)["added"] == 120
    channels = path.read_text().splitlines()[10].split(":")[:2]
    hits = told("search", index, ";".join(channels), "--k", 2)
    assert hits[0]["key"] == "11"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4)
    for query, says in (
        ("1,2;x,4", "'x' is not a number"),
        ("1,2;3", "unlike lengths"),
        ("1,2", "series of 2 channels"),
    ):
        assert cli.main(["search", str(index), query]) == 2
        assert says in capsys.readouterr().err
    assert cli.main(["report", str(folder / "run")]) == 0
    assert "data:image/" in (folder / "run" / "report.html").read_text()
    assert cli.main(["data", str(path)]) == 0
    assert "▁" in capsys.readouterr().out


def test_compare_on_windows_of_a_long_series(tmp_path, capsys):
    rows = [[k, np.sin(k / 3), k % 5] for k in range(300)]
    path = table(tmp_path / "t.csv", ["time", "x", "y"], rows)
    words = ["compare", str(path), "--series-window", "10", "--methods", "simclr,ts2vec", "--seeds", "1",
             "--steps", "2", "--task", "forecasting --horizons 2,5", "--out", str(tmp_path / "c")]  # fmt: skip
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["task"]["kind"] == "forecasting"
    assert {row["slug"] for row in results["rows"]} == {"chance", "raw", "seasonal", "untrained", "simclr", "ts2vec"}
