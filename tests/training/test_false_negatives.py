"""Who is no negative of whom in training: counted by hand from the texts of each batch, not from ids."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.negatives.base import known_pairs
from nearfar.similarity import Anchors, Block, everyone, listed
from nearfar.similarity.exchange import exchange
from nearfar.similarity.relations import Tile
from nearfar.training import building
from nearfar.training.settings import TrainSettings


def write(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def pairs(folder):
    """Few questions and answers, so that most answers belong to several questions, and some texts are both."""
    rng = np.random.default_rng(0)
    questions, answers = [f"question {i} of many" for i in range(60)], [f"answer {i} to some" for i in range(40)]
    answers[:6] = questions[:6]
    rows = [(questions[rng.integers(60)], answers[rng.integers(40)], "train") for _ in range(300)]
    rows += [(f"{part} {i}", f"{part} reply {i}", part) for part in ("val", "test") for i in range(5)]
    return write(folder / "pairs.csv", ["question", "answer", "split"], rows)


def groups(folder):
    rows = [(f"thing {i // 4} seen {i % 3 if i % 5 else 'often'}", i // 4, "train") for i in range(200)]
    rows += [(f"{part} {i}", 900 + 2 * i + (part == "val"), part) for part in ("val", "test") for i in range(5)]
    return write(folder / "groups.csv", ["text", "group", "split"], rows)


def ready(path, *, batch=24, method="pairs", **options):
    data = nearfar.data(path)
    settings = TrainSettings(batch_size=batch, steps=8, val_every=0)
    return data, building.prepare(method, data, settings, options)


def relation(excluded, n, width):
    found = excluded.relation(torch.arange(n), exchange("local"), width)
    tile = found.tile(Tile(slice(0, n), 0, slice(0, width), False, torch.device("cpu")))
    return tile.expand(n, width).numpy()


def belong(data):
    """(question, answer) of every training row."""
    rows = data.splits["train"]
    return set(zip(data.texts("text", rows), data.texts("text_b", rows), strict=True))


def by_hand(a, b, known):
    """Whether candidate j is no negative of anchor i: a copy of its answer or of itself, of an equal question, or
    known to answer it too."""
    return np.array(
        [
            [b[j] == b[i] or a[j] == a[i] or b[j] == a[i] or (a[i], b[j]) in known for j in range(len(b))]
            for i in range(len(a))
        ]
    )


def test_pairs_hide_all_that_is_known_to_belong_together(tmp_path):
    data, setup = ready(pairs(tmp_path))
    known, shares = belong(data), []
    for step in range(4):
        batch = setup.loader.at(step)
        a, b = (data.texts(role, batch.rows.numpy()) for role in ("text", "text_b"))
        wanted, n = by_hand(a, b, known), len(batch)
        assert (relation(batch.excluded(), n, n) == wanted).all()
        back = np.array(
            [
                [a[j] == a[i] or b[j] == b[i] or a[j] == b[i] or (a[j], b[i]) in known for j in range(n)]
                for i in range(n)
            ]
        )
        assert (relation(batch.excluded().reversed(), n, n) == back).all()
        shares.append((wanted.sum() - n) / (n * (n - 1)))
        assert batch.masked_share() == pytest.approx(shares[-1])
    assert min(shares) > 0.05, "the data hold what is to be hidden"


def test_the_curve_says_the_share_that_is_hidden(tmp_path):
    path = pairs(tmp_path)
    data, setup = ready(path)
    run = nearfar.fit("pairs", path, out=tmp_path / "run", steps=8, batch_size=24, val_every=0, progress=False)
    lines = [json.loads(line) for line in (run.path / "curve.jsonl").read_text().splitlines()]
    known, told = belong(data), {line["step"]: line["masked"] for line in lines if "masked" in line}
    assert told
    for step, share in told.items():
        rows = setup.loader.at(step - 1).rows.numpy()
        wanted = by_hand(data.texts("text", rows), data.texts("text_b", rows), known)
        assert share == pytest.approx((wanted.sum() - len(rows)) / (len(rows) * (len(rows) - 1)), abs=1e-6)


def test_groups_hide_members_and_copies(tmp_path):
    data, setup = ready(groups(tmp_path))
    batch = setup.loader.at(0)
    n = len(batch)
    texts, group = data.texts("text", batch.rows.numpy()), data.texts("group", batch.rows.numpy())
    members = [{texts[i], texts[n + i]} for i in range(n)]
    wanted = np.array([[group[i] == group[j] or bool(members[i] & members[j]) for j in range(n)] for i in range(n)])
    assert (relation(batch.excluded(), n, n) == wanted).all()
    assert batch.masked_share() == pytest.approx((wanted.sum() - n) / (n * (n - 1)))


@pytest.mark.parametrize("write_data", [pairs, groups])
def test_a_queue_hides_the_same(write_data, tmp_path):
    """Keys of the steps before, against the anchors of the step."""
    data, setup = ready(write_data(tmp_path), negatives="queue")
    method = setup.method
    seen = []
    for step in range(3):
        batch = setup.loader.at(step)
        if step == 2:
            break
        method.negatives.update(torch.randn(len(batch), method.dim), method.items(batch))
        seen.append(batch)
    n, query = len(batch), torch.randn(len(batch), method.dim)
    shown = Anchors(
        query,
        torch.arange(n),
        query,
        torch.arange(n),
        Block(query),
        everyone & ~listed(torch.arange(n)),
        "cosine",
        exchange("local"),
        n,
        1,
    )
    assert method.negatives.capacity >= 2 * n
    block = method.negatives.memory(shown, method.items(batch))
    tile = block.visible.tile(Tile(slice(0, n), 0, slice(0, 2 * n), False, torch.device("cpu"))).expand(n, 2 * n)
    if write_data is pairs:
        known = belong(data)
        sides = [[data.texts(role, one.rows.numpy()) for role in ("text", "text_b")] for one in (*seen, batch)]
        a, b = sides[-1]
        keys = [pair for side in sides[:2] for pair in zip(*side, strict=True)]
        wanted = [[q in (c, d) or r == d or (q, d) in known for c, d in keys] for q, r in zip(a, b, strict=True)]
    else:
        drawn = [one.rows.numpy() for one in (*seen, batch)]
        parts = [(data.texts("text", rows), data.texts("group", rows)) for rows in drawn]
        items = [[({t[i], t[n + i]}, g[i]) for i in range(n)] for t, g in parts]
        wanted = [[g == h or bool(t & u) for u, h in items[0] + items[1]] for t, g in items[2]]
    assert (~tile.numpy() == np.array(wanted)).all()
    assert np.array(wanted).any()


def test_items_of_one_label_are_no_negatives_in_a_memory(tmp_path):
    """Where a loss takes the items of one label as positives, remembered ones of it hide; unlabelled ones do not."""
    kinds = [f"kind {i % 4}" if i % 7 else "" for i in range(160)]
    path = write(
        tmp_path / "kinds.csv",
        ["text", "text_b", "label"],
        [(f"text number {i}", f"its answer {i}", kind) for i, kind in enumerate(kinds)],
    )
    data, setup = ready(path, batch=16, loss="supcon", negatives="queue")
    assert data.roles["label"] == ["label"]
    first, second = setup.loader.at(0), setup.loader.at(1)
    items, n = setup.method.items(second), len(second)
    found = known_pairs(torch.arange(n), items, setup.method.items(first).stored)
    tile = found.tile(Tile(slice(0, n), 0, slice(0, n), False, torch.device("cpu"))).expand(n, n).numpy()
    mine, theirs = ([kinds[row] for row in one.rows.tolist()] for one in (second, first))
    assert (tile == np.array([[bool(x) and x == y for y in theirs] for x in mine])).all()
    assert tile.any()


def test_hard_negatives_that_belong_to_an_anchor_are_hidden_from_it(tmp_path):
    """A named hard negative may be another row's answer; an empty cell is none at all."""
    rows = [(f"question {i}", f"answer {i % 30}", f"answer {(i + 1) % 30}" if i % 3 else "") for i in range(90)]
    data, setup = ready(write(tmp_path / "hard.csv", ["question", "answer", "negative"], rows))
    batch = setup.loader.at(0)
    n = len(batch)
    a, b, c = (data.texts(column, batch.rows.numpy()) for column in ("text", "text_b", "negative"))
    kinds = setup.method.with_hard_negatives({"excluded": batch.excluded()}, batch)["excluded"]
    excluded = relation(kinds, n, 2 * n)
    known = belong(data)
    wanted = by_hand(a, b, known)
    with_hard_negatives = np.array(
        [[not c[j] or c[j] == b[i] or (a[i], c[j]) in known for j in range(n)] for i in range(n)]
    )
    assert (excluded == np.concatenate([wanted, with_hard_negatives], 1)).all()
    assert 0 < with_hard_negatives.mean() < 1


def labelled(folder):
    rows = []
    for i in range(80):
        rows += [(f"anchor {i}", f"near {i}", 1), (f"anchor {i}", f"far {i}", 0), (f"anchor {i}", f"farther {i}", 0)]
    rows += [(f"lone {i}", f"nothing {i}", 0) for i in range(40)]
    return write(folder / "labelled.csv", ["question1", "question2", "is_duplicate"], rows)


def test_rows_labelled_zero_are_hard_negatives_of_their_anchor_and_never_positives(tmp_path):
    data, setup = ready(labelled(tmp_path), batch=16)
    assert (data.pair_labels[setup.rows] == 1).all()
    assert not any(text.startswith("lone") for text in data.texts("text", setup.rows))
    contents = data.content("text_b")
    drawn = set()
    for step in range(8):
        batch = setup.loader.at(step)
        assert (data.pair_labels[batch.rows.numpy()] == 1).all()
        (ids,) = batch.negatives
        for anchor, number in zip(data.texts("text", batch.rows.numpy()), ids.tolist(), strict=True):
            name = data.texts("text_b", [int(np.flatnonzero(contents == number)[0])])[0]
            assert name.split()[0] in ("far", "farther")
            assert name.split()[1] == anchor.split()[1]
            drawn.add(name.split()[0])
    assert drawn == {"far", "farther"}
    again = building.prepare("pairs", data, TrainSettings(batch_size=16, steps=8), {}).loader.at(3)
    assert torch.equal(again.negatives[0], setup.loader.at(3).negatives[0]), "a step draws the same each time"


@pytest.mark.parametrize("loss", ["cosent", "cosine-regression"])
def test_graded_losses_learn_the_score(loss, tmp_path):
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bcdfglmn" for b in ("an", "el", "im", "ot")]
    rows = []
    for _ in range(500):
        text, kept = rng.choice(words, 8), rng.integers(0, 9)
        rows.append((" ".join(text), " ".join([*text[:kept], *rng.choice(words, 8 - kept)]), f"{kept / 8 * 5:.2f}"))
    path = write(tmp_path / "sts.csv", ["sentence1", "sentence2", "score"], rows)
    run = nearfar.fit(
        "pairs", path, out=tmp_path / "run", loss=loss, steps=80, batch_size=32, val_every=0, lr=5e-3, progress=False
    )
    lines = [json.loads(line) for line in (run.path / "curve.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert run.scores["test"]["primary_name"] == "spearman"
    assert run.scores["test"]["primary"] > 0.5
    assert "masked" not in lines[0], "no pair is a negative of another"
