"""Interactions: what is read, how it is divided, what is counted against a count by hand, and the whole way."""

import importlib.util
import json
import math
import zipfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import nearfar
from nearfar import cli, modalities
from nearfar.encoders import Features
from nearfar.encoders.histories import Histories, HistoryEncoder, last_state
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.evaluation.recommending import expected_metrics, next_item_metrics
from nearfar.sources.interactions import log_of
from nearfar.sources.sets import movielens
from nearfar.sources.storage import cache_dir
from nearfar.views import build
from tests.modalities.histories import (
    by_neighbours,
    by_popularity,
    left_out,
    made_up,
    metrics_of,
    rank_of,
    write,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = made_up(np.random.default_rng(0))
    return write(tmp_path_factory.mktemp("interactions") / "log.csv", rows)


@pytest.fixture(scope="module")
def data(table):
    return nearfar.data(table)


def histories(data, rows):
    return [list(one) for one in modalities.of("user").items(data, "user", rows)]


def items_of(data):
    """The item of each row."""
    return modalities.of("user").items(data, "item", range(len(data)))


def test_users_items_and_times_are_found_by_name_all_together(data, tmp_path):
    assert data.roles == {"user": "user", "item": "item", "time": "timestamp"}
    assert data.modality("user").name == "interactions"
    rows = [(f"a text about thing {i}", f"u{i % 5}", f"i{i % 7}") for i in range(30)]
    assert "user" not in nearfar.data(write(tmp_path / "t.csv", rows, ("text", "user", "item"))).roles
    rows = [(*row, i) for i, row in enumerate(rows)]
    path = write(tmp_path / "t.csv", rows, ("title", "user", "item", "time"))
    assert set(nearfar.data(path).roles) == {"user", "item", "time"}
    assert "user" not in nearfar.data(path, roles={"text": "title"}).roles


def test_leave_one_out_is_that_of_the_file(table, data):
    wanted = left_out(table)
    users, items = data.values("user"), data.values("item")
    for name, place in (("val", 1), ("test", 2)):
        rows = data.splits[name]
        assert {users[r]: items[r] for r in rows} == {u: parts[place] for u, parts in wanted.items() if parts[place]}
        for row, history in zip(rows, histories(data, rows), strict=True):
            train, val, _ = wanted[users[row]]
            assert history == (train if name == "val" else [*train, *([val] if val else [])])
    seen = Counter((users[r], items[r]) for r in np.flatnonzero(log_of(data).seen))
    assert seen == Counter((u, item) for u, (train, _, _) in wanted.items() for item in train)
    for row, history in zip(data.splits["train"], histories(data, data.splits["train"]), strict=True):
        train = wanted[users[row]][0]
        assert history
        assert history == train[: len(history)]
        assert items[row] == train[len(history)]


def test_by_time_no_training_row_is_later_than_a_tested_one(table):
    data = nearfar.data(table, split="by-time")
    times, log = np.array([float(t) for t in data.values("time")]), log_of(data)
    assert times[log.part == 0].max() < times[log.part == 1].min()
    assert times[log.part == 1].max() < times[log.part == 2].min()
    assert data.split_hash != nearfar.data(table).split_hash
    with pytest.raises(InputError, match=r"--split by-time divides interactions"):
        nearfar.data("diabetes", split="by-time")


def test_with_a_column_of_splits_training_sees_training_alone(tmp_path):
    parts = ["train", "test", "train", "val", "train", "test"]
    rows = [(u, f"i{k}", k, part) for u in "abcd" for k, part in enumerate(parts)]
    data = nearfar.data(write(tmp_path / "t.csv", rows, ("user", "item", "time", "split")))
    found = dict(zip(zip(data.values("user"), data.values("item"), strict=True), histories(data, None), strict=True))
    assert found["a", "i4"] == ["i0", "i2"]
    assert found["a", "i3"] == ["i0", "i2"]
    assert found["a", "i5"] == ["i0", "i1", "i2", "i3", "i4"]
    with pytest.raises(InputError, match=r"'mine' in the split column 'split' is no split"):
        nearfar.data(write(tmp_path / "t.csv", [*rows, ("a", "x", 9, "mine")], ("user", "item", "time", "split")))


def test_nothing_of_what_is_tested_reaches_training_or_the_counts(tmp_path):
    """Other last items, the same training rows, the same scores of popularity and the same encoder."""
    rows = [(f"u{u}", f"i{(u + k) % 9}", k) for u in range(20) for k in range(6)]
    other = [(u, "new" if k == 5 else "i8" if k == 4 else i, k) for u, i, k in rows]
    found = []
    for place, some in enumerate((rows, other)):
        data = nearfar.data(write(tmp_path / f"{place}.csv", some))
        task = task_for(data)
        search = task.searches("test")[0]
        log = log_of(data)
        popular = task.by_popularity(search).tile(slice(0, 1), slice(0, search.size))
        encoder = modalities.of("user").encoder(modalities.of("user").options(), data, 0)
        found.append((encoder.items, popular.tolist(), sorted(map(tuple, histories(data, data.splits["train"]))),
                      [log.item_names[i] for i in log.items[log.seen]]))  # fmt: skip
    assert found[0] == found[1]
    assert "new" not in found[1][0]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(("slug", "by"), [("popularity", by_popularity), ("item-knn", by_neighbours)])
def test_references_are_those_counted_from_the_file(slug, by, split, table, data):
    divided = left_out(table)
    score, ranks = by(divided), []
    for train, val, test in divided.values():
        history, target = (train, val) if split == "val" else ([*train, *([val] if val else [])], test)
        if target:
            scores = {item: np.float32(value) for item, value in score(history).items()}
            ranks.append(rank_of(target, scores))
    row = next(one for one in references(data, task_for(data)) if one.slug == slug)
    assert row.evaluate(split).metrics == pytest.approx(metrics_of(ranks), abs=1e-9)


def test_items_of_the_history_may_be_left_out(table, data):
    divided = left_out(table)
    counts, ranks = by_popularity(divided)([]), []
    for train, val, test in divided.values():
        met = {*train, *([val] if val else [])} - {test}
        ranks.append(rank_of(test, {item: n for item, n in counts.items() if item not in met}))
    task = task_for(data, "next-item", seen="leave-out")
    row = next(one for one in references(data, task) if one.slug == "popularity")
    assert row.evaluate("test").metrics == pytest.approx(metrics_of(ranks), abs=1e-9)


def test_an_item_that_no_training_row_has_is_missed_and_counted(tmp_path):
    rows = [(f"u{u}", f"i{(u + k) % 9}", k) for u in range(20) for k in range(6)]
    rows = [(u, "new" if k == 5 and u < "u15" else i, k) for u, i, k in rows]
    data = nearfar.data(write(tmp_path / "t.csv", rows))
    new = sum(item == "new" for _, item, _ in rows)
    assert any(
        f"{new} test rows ask for an item that no training row has: they count as missed" in n for n in data.notes
    )
    perfect = task_for(data).evaluate(Knowing(data), "test")
    assert perfect.metrics["hit@1"] == perfect.metrics["mrr"] == pytest.approx(1 - new / 20)
    assert perfect.counts["user → item"]["unknown"] == new
    everything = [(u, f"{u} {k}", k) for u, _, k in rows]
    data = nearfar.data(write(tmp_path / "t.csv", everything))
    assert task_for(data).evaluate(Knowing(data), "test").metrics["hit@20"] == 0


class Knowing:
    """An embedder that knows what comes next."""

    def __init__(self, data):
        self.log = log_of(data)

    def __call__(self, role, rows):
        return np.eye(len(self.log.item_names), dtype=np.float32)[self.log.items[rows]]


def test_an_item_that_the_model_does_not_know_is_behind_all_others(table, data):
    """Vectors of zeros stand for such items; all others have scores below 0."""
    rng, task = np.random.default_rng(0), task_for(data, "next-item")
    names = sorted({item for train, _, _ in left_out(table).values() for item in train})
    vectors = {name: rng.random(4) * (k % 3 > 0) for k, name in enumerate(names)}
    of_item = np.stack([vectors.get(name, np.zeros(4)) for name in items_of(data)])
    of_user = -rng.random((len(data), 4))
    scores = task.evaluate(lambda role, rows: (of_user if role == "user" else of_item)[rows], "test")
    ranks = []
    for row in data.splits["test"]:
        told = {name: float(of_user[row] @ v) if v.any() else -math.inf for name, v in vectors.items()}
        wanted = items_of(data)[row]
        ranks.append(rank_of(wanted, told) if vectors.get(wanted, np.zeros(1)).any() else math.inf)
    assert scores.metrics == pytest.approx(metrics_of(ranks))
    assert next(iter(scores.counts.values()))["unknown"] == ranks.count(math.inf) > 5


def test_metrics_of_ranks():
    found = next_item_metrics(np.array([1, 3, 10, 11, np.inf]))
    assert found["hit@10"].tolist() == [1, 1, 1, 0, 0]
    assert found["ndcg@10"] == pytest.approx([1, 0.5, 1 / np.log2(11), 0, 0])
    assert found["mrr"] == pytest.approx([1, 1 / 3, 0.1, 1 / 11, 0])
    assert expected_metrics(40)["hit@10"] == pytest.approx(0.25)
    assert expected_metrics(3)["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


# -- bad input


def test_copies_ties_and_disorder_are_told_and_counted(tmp_path):
    rows = [("a", "x", 3), ("a", "y", 3), ("a", "z", 1), ("a", "x", 3), ("b", "x", 1), ("b", "y", 2), ("b", "z", 5),
            ("c", "x", 9)]  # fmt: skip
    data = nearfar.data(write(tmp_path / "t.csv", rows))
    told = " | ".join(data.notes)
    assert "1 rows repeat a user, an item and a time: each counts once" in told
    assert "1 interactions have the time of the user's one before: they stay in the order of the table" in told
    assert "they are sorted by user and time" in told
    assert "1 users have a single interaction: they have no history and are left out" in told
    assert log_of(data).histories()["c"] == ["x"]
    assert histories(data, [1])[0] == ["z", "x"]
    assert histories(data, [3]) == histories(data, [0]) == [["z"]]
    assert not np.isin([3, 7], np.concatenate(list(data.splits.values()))).any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user,item,time\na,x,soon\n", r"line 2: column 'time': 'soon' is neither a number nor a date"),
        ("user,item,time\na,x,\n", r"line 2: column 'time': the time is empty"),
        ("user,item,time\na,,3\n", r"line 2: column 'item': the id is empty"),
        ("user,item,time\n", r"holds no rows"),
        ("", r"is empty"),
        ("user,item,time\na,x,1\nb,y,2\n", r"no user has two interactions"),
        ("user,item,time\na,x,inf\n", r"'inf' is neither a number nor a date"),
    ],
)
def test_bad_tables_are_refused_with_their_place(text, says, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        nearfar.data(path, roles={"user": "user", "item": "item", "time": "time"} if text.strip() else None)


def test_bad_rows_may_be_skipped(tmp_path):
    rows = [(u, i, k) for u in "abc" for k, i in enumerate("vwxyz")]
    data = nearfar.data(write(tmp_path / "t.csv", [*rows, ("a", "v", "late")]), unreadable="skip")
    assert len(data) == 15
    assert "neither a number nor a date" in str(data.problems[0])


def test_a_missing_column_is_asked_for(tmp_path):
    path = write(tmp_path / "t.csv", [(u, k) for u in "ab" for k in range(5)], ("user", "when"))
    with pytest.raises(InputError, match=r"interactions need a column of items"):
        nearfar.data(path, roles={"user": "user"})
    path = write(tmp_path / "t.csv", [(u, f"i{k}") for u in "ab" for k in range(5)], ("user", "item"))
    data = nearfar.data(path, roles={"user": "user", "item": "item"})
    assert any("there is no column of times: the rows count as they stand" in note for note in data.notes)
    assert histories(data, [4])[0] == ["i0", "i1", "i2", "i3"]


def test_without_times_an_item_may_be_met_again(tmp_path):
    rows = [(u, item) for u in "ab" for item in "xyxxz"]
    data = nearfar.data(write(tmp_path / "t.csv", rows, ("user", "item")), roles={"user": "user", "item": "item"})
    assert {name: part.tolist() for name, part in data.splits.items()} == {
        "train": [1, 2, 6, 7], "val": [3, 8], "test": [4, 9]}  # fmt: skip
    assert histories(data, [4])[0] == ["x", "y", "x", "x"]
    assert not any("repeat" in note for note in data.notes)
    with pytest.raises(InputError, match="has no column of times to be divided by"):
        nearfar.data(tmp_path / "t.csv", roles={"user": "user", "item": "item"}, split="by-time")


def test_ids_are_numbers_or_texts_and_times_numbers_or_dates(tmp_path):
    stamps = ["2024-01-03", "2024-01-02T10:00:00", "2024-01-02T09:00:00Z", "2023-12-31"]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"user_id": [1.0] * 4, "item_id": [7, 8, 9, 10], "timestamp": stamps}), path)
    data = nearfar.data(path)
    assert histories(data, [0])[0] == ["10", "9", "8"]
    assert log_of(data).user_names == ["1"]


def test_a_limit_takes_whole_users(table):
    data, all_rows = nearfar.data(table, limit=80), nearfar.data(table)
    whole = Counter(all_rows.values("user"))
    assert all(whole[user] == n for user, n in Counter(data.values("user")).items())


def test_recboles_files_and_titles(tmp_path):
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{u}\t{i}\t3\t{i * 10}" for u in (1, 2) for i in (5, 6, 7, 8)]
    (tmp_path / "small.inter").write_text("\n".join(lines) + "\n")
    (tmp_path / "small.item").write_text("item_id:token\tmovie_title:token_seq\n5\tFive\n6\tSix\n7\tSeven\n8\tEight\n")
    data = nearfar.data(tmp_path / "small.inter")
    assert data.roles == {"user": "user_id", "item": "item_id", "time": "timestamp"}
    shown = modalities.of("user").show(data, "user", modalities.of("user").items(data, "user", [3]))
    assert shown == [{"text": "Five → Six → Seven"}]
    (tmp_path / "small.item").unlink()
    names = write(tmp_path / "names.csv", [(5, "Cinq"), (8, "Huit")], ("id", "name"))
    again = nearfar.data(tmp_path / "small.inter", titles=names)
    assert modalities.of("item").samples(again, "item", [0, 1]) == ["Cinq", "6"]
    with pytest.raises(InputError, match=r"--titles names the items of interactions"):
        nearfar.data("diabetes", titles=names)
    with pytest.raises(InputError, match=r"There is no table of items"):
        nearfar.data(tmp_path / "small.inter", titles=tmp_path / "none.csv")
    (tmp_path / "small.inter").write_text("user_id:token\tfilm:token\n1\t2\n")
    with pytest.raises(InputError, match=r"line 1: there is no column of items \(user_id:token, film:token\)"):
        nearfar.data(tmp_path / "small.inter")


def test_movielens_says_how_to_get_it_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_WHEELS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "recbole" else known(name, *rest)
    )
    with pytest.raises(InputError, match=r"pip download --no-deps -d .* recbole==1\.2\.1"):
        nearfar.data("movielens", cache=tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{movielens.INSIDE}/{movielens.RATINGS}", "user_id:token\n1\n")
        wheel.writestr(f"{movielens.INSIDE}/{movielens.FILMS}", "item_id:token\n1\n")
    with pytest.raises(InputError, match="is not MovieLens-100k"):
        nearfar.data("movielens", cache=tmp_path / "cache")


def ratings():
    """MovieLens-100k where this machine has it."""
    try:
        return movielens.ratings_and_films(cache_dir())[0].decode()
    except InputError:
        return None


def test_movielens_is_counted_as_by_hand():
    text = ratings()
    if text is None:
        pytest.skip("RecBole's wheel is not here")
    met = {}
    for line, row in enumerate(text.splitlines()[1:]):
        user, item, _, time = row.split("\t")
        met.setdefault(user, []).append((float(time), line, item))
    histories = {user: [item for _, _, item in sorted(rows)] for user, rows in met.items()}
    counts = Counter(item for items in histories.values() for item in items[:-2])
    data = nearfar.data("movielens")
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 97_171, "val": 943, "test": 943}
    assert (len(met), len({item for items in histories.values() for item in items})) == (943, 1682)
    assert modalities.of("item").samples(data, "item", [0]) == ["Kolya (1996)"]
    wanted = metrics_of([rank_of(items[-1], counts) for items in histories.values()])
    found = next(one for one in references(data, task_for(data)) if one.slug == "popularity").evaluate("test")
    assert found.metrics == pytest.approx(wanted, abs=1e-9)
    assert found.counts["user → item"]["gallery"] == len(counts)


def test_imports_are_those_of_the_files(tmp_path):
    from nearfar.sources.sets.imports import imports_of

    (tmp_path / "b.py").write_text("import x.y, z\nfrom . import c\nfrom ..d import e\ndef f():\n    from g import h\n")
    found = [(one.module, one.line) for one in imports_of(tmp_path / "b.py", "p.a.b", "p")]
    assert found == [("x.y", "1"), ("z", "1"), ("p.a", "2"), ("p.d", "3"), ("g", "5")]
    (tmp_path / "broken.py").write_text("import (")
    assert list(imports_of(tmp_path / "broken.py", "p.broken", "p")) == []


# -- encoder and views


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return HistoryEncoder([f"i{k}" for k in range(9)], dim=8, inner=16, length=6).eval()


def naive_states(encoder, ids):
    """Attention of one history, place by place, in float64."""
    p = {name: value.detach().double() for name, value in encoder.state_dict().items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    h = norm(p["table.weight"][ids] + p["places.weight"][: len(ids)], "norm")
    for k in range(encoder.layers):
        q, key, v = linear(h, f"stack.{k}.qkv").chunk(3, -1)
        rows, width = [], encoder.dim // encoder.heads
        for t in range(len(ids)):
            allowed = [s for s in range(t + 1) if ids[s] != 0] or [t]
            parts = []
            for head in range(encoder.heads):
                own = slice(head * width, (head + 1) * width)
                score = torch.stack([q[t, own] @ key[s, own] for s in allowed]) / width**0.5
                parts.append((score.softmax(0)[:, None] * torch.stack([v[s, own] for s in allowed])).sum(0))
            rows.append(torch.cat(parts))
        h = norm(h + linear(torch.stack(rows), f"stack.{k}.out"), f"stack.{k}.after_attention")
        made = linear(torch.nn.functional.gelu(linear(h, f"stack.{k}.up")), f"stack.{k}.down")
        h = norm(h + made, f"stack.{k}.after_mlp")
    return h


def test_states_are_those_of_a_naive_attention_and_see_no_future(encoder):
    x = Histories(torch.tensor([[3, 0, 5, 1, 2, 4], [9, 8, 0, 0, 0, 0], [0, 7, 10, 0, 0, 0]]), torch.tensor([6, 2, 3]))
    with torch.no_grad():
        states = encoder.states(x)
        for row, n in enumerate(x.lengths.tolist()):
            wanted = naive_states(encoder, x.ids[row, :n])
            torch.testing.assert_close(states[row, :n].double(), wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(encoder(x)[row], states[row, n - 1])
        changed = Histories(x.ids.clone(), x.lengths)
        changed.ids[0, 4:] = 6
        assert torch.equal(encoder.states(changed)[0, :4], states[0, :4])
        assert torch.equal(encoder(Histories(x.ids[:, :3], x.lengths.clamp(max=3)))[1], encoder(x)[1])


def test_histories_without_items_have_one_vector(encoder):
    found = encoder(encoder.histories([[], [1], []]))
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1])
    states = torch.arange(6.0).view(1, 3, 2)
    assert last_state(states, torch.tensor([3])).tolist() == [[4, 5]]
    assert torch.equal(last_state(states, torch.tensor([0])), states[:, 0])
    with pytest.raises(InputError, match="knows no item 'i99'"):
        encoder.prepare(["i99"])
    assert encoder.prepare([["i1", "what", "i2"]]).ids.tolist() == [[2, 3]]
    assert encoder.prepare([[f"i{k}" for k in range(9)]]).ids.tolist() == [[4, 5, 6, 7, 8, 9]]
    with pytest.raises(InputError, match="need a width that they divide"):
        HistoryEncoder(["a"], dim=9)


def batch_of_histories(rng, n=400, length=12):
    lengths = torch.from_numpy(rng.integers(1, length + 1, n))
    ids = torch.from_numpy(rng.integers(1, 100, (n, length)))
    return Histories(ids.masked_fill(torch.arange(length) >= lengths[:, None], 0), lengths)


def test_views_are_the_operators_of_the_card():
    x = batch_of_histories(np.random.default_rng(0))
    for name, share in (("crop", 0.5), ("mask", 0.5), ("reorder", 0.8)):
        plan = build("crop-mask-reorder", operators=[name], different=False)
        plan.mask_id = 777
        for view in plan(x, torch.Generator().manual_seed(1)):
            for row, n in enumerate(x.lengths.tolist()):
                before, after = x.ids[row, :n].tolist(), view.ids[row, : view.lengths[row]].tolist()
                assert not view.ids[row, view.lengths[row] :].any()
                if n == 1:
                    assert after == before
                elif name == "crop":
                    assert len(after) == int(n * share)
                    assert any(before[s : s + len(after)] == after for s in range(n))
                elif name == "mask":
                    assert len(after) == n
                    assert after.count(777) == int(n * share)
                    assert all(a in (b, 777) for a, b in zip(after, before, strict=True))
                else:
                    assert sorted(after) == sorted(before)
                    moved = [s for s in range(n) if after[s] != before[s]]
                    assert not moved or moved[-1] - moved[0] < int(n * share)


def test_two_operators_of_a_history_differ_and_each_is_as_likely(encoder):
    plan = build("crop-mask-reorder").bind(encoder)
    assert plan.mask_id == encoder.mask_id
    assert build("crop-mask-reorder", hidden="padding").bind(encoder).mask_id == 0
    first, second = plan.drawn(6000, torch.Generator().manual_seed(0))
    assert not (first == second).any()
    pairs = Counter(zip(first.tolist(), second.tolist(), strict=True))
    assert len(pairs) == 6
    assert all(abs(n - 1000) < 150 for n in pairs.values())
    with pytest.raises(InputError, match="two different operators need two"):
        build("crop-mask-reorder", operators=["crop"])
    with pytest.raises(InputError, match="Leave out --freeze"):
        plan(Features(torch.zeros(2, 3)), torch.Generator())


# -- the whole way


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    folder = tmp_path_factory.mktemp("way")
    path = write(folder / "log.csv", made_up(np.random.default_rng(1), users=120))
    write(folder / "items.csv", [(f"i{k}", f"Film {k}") for k in range(24)], ("item_id", "title"))
    words = ["fit", "sasrec", path, "--titles", folder / "items.csv", "--steps", 150, "--history-width", 32,
             "--history-dropout", 0.1, "--lr", 0.01, "--val-every", 0, "--out", folder / "run"]  # fmt: skip
    assert cli.main([*map(str, words)]) == 0
    return folder, path


def told(capsys, *words):
    capsys.readouterr()
    assert cli.main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_whole_way(way, tmp_path, capsys):
    folder, path = way
    found = told(capsys, "evaluate", folder / "run", path)
    scores = {row["slug"]: row["metrics"]["hit@10"] for row in found["rows"]}
    assert list(scores) == ["model", "chance", "popularity", "item-knn"]
    assert scores["chance"] == pytest.approx(10 / 24)
    assert scores["model"] > max(scores["popularity"], scores["item-knn"])
    assert found["trained_on"]["rows"] == 0
    assert found["shared"] == []
    hits = told(capsys, "search", folder / "run", "user:u3", "--k", 3)
    assert all(hit["title"] == f"Film {hit['key'][1:]}" for hit in hits)
    assert sorted((hit["score"] for hit in hits), reverse=True) == [hit["score"] for hit in hits]
    assert told(capsys, "embed", folder / "run", path, "--out", tmp_path / "z.parquet")["added"] > 100
    page = told(capsys, "report", folder / "run", "--out", tmp_path / "report.html")["path"]
    assert "Film " in (tmp_path / "report.html").read_text()
    assert page.endswith("report.html")


def test_all_that_a_user_has_met_is_left_out_of_the_answers_not_the_latest_alone(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{item}", place) for u in range(20) for place, item in enumerate(rng.permutation(12)[:8])]
    path = write(tmp_path / "t.csv", rows)
    run = nearfar.fit("sasrec", path, history_length=2, history_width=8, steps=2, batch_size=8, val_every=0,
                      out=tmp_path / "run", progress=False)  # fmt: skip
    met = {item for user, item, _ in rows if user == "u3"}
    found = {hit["key"] for hit in nearfar.search(run.path, "user:u3", k=12)}
    assert found == {f"i{k}" for k in range(12)} - met
    latest = [item for user, item, _ in rows if user == "u3"][-2:]
    asked = nearfar.search(run.path, latest, k=12)
    scores = {hit["key"]: hit["score"] for hit in asked}
    assert all(hit["score"] == pytest.approx(scores[hit["key"]]) for hit in nearfar.search(run.path, "user:u3", k=12))


def test_the_model_finds_what_its_vectors_say(way):
    folder, _ = way
    model = nearfar.load(folder / "run" / "model", verify=True)
    encoder = model.roles["user"].encoder
    history = ["i3", "i4", "i5"]
    with torch.no_grad():
        state = encoder(encoder.prepare([history]))[0]
        scores = (encoder.item_vectors @ state).tolist()
    best = sorted((name for name in encoder.items if name not in history), key=lambda n: -scores[encoder.index[n] - 1])
    hits = nearfar.search(folder / "run", "items:i3,i4,i5", k=4)
    assert [hit["key"] for hit in hits] == best[:4]
    assert hits[0]["score"] == pytest.approx(scores[encoder.index[best[0]] - 1], abs=1e-5)
    assert [hit["key"] for hit in nearfar.search(folder / "run", history, k=4)] == best[:4]
    for query, says in (("user:nobody", "knows no user 'nobody'"), ("i3", "finds the next items of a history"),
                        ("items:zzz", "knows none of the items")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            nearfar.search(folder / "run", query)
    with pytest.raises(InputError, match="--where needs an index"):
        nearfar.search(folder / "run", "items:i3", where="a = 1")


@pytest.mark.parametrize("slug", ["simclr", "pairs"])
def test_methods_of_any_kind_and_of_pairs_train_on_histories(slug, data, tmp_path):
    run = nearfar.fit(slug, data, steps=2, batch_size=8, history_width=16, out=tmp_path / "run", val_every=0)
    assert run.scores["test"]["primary_name"] == "ndcg@10"
    assert nearfar.load(run.path / "model", verify=True).modalities == ["interactions"]
