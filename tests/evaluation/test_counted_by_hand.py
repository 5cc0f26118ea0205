"""Metrics of data read from files equal a count by hand from the rows of the files (their texts and pixels, not ids),
and those of BEIR folders equal trec_eval's."""

import csv
import json

import numpy as np
import pytest
import pytrec_eval
from PIL import Image

import nearfar
from nearfar.evaluation import task_for
from nearfar.evaluation.pairwise import accuracy_at, average_precision, best_threshold, f1_at

from .test_chance import Random, beir, domains, groups, image_pairs, labelled_pairs, labels, scored_pairs, text_pairs

KS = (1, 5, 10)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def unit(v):
    return v / np.linalg.norm(v)


def counted(scores, relevant, visible):
    """Metrics of one query from the scores of the gallery; None without a relevant item that it may see."""
    order = sorted((j for j in range(len(scores)) if visible[j]), key=lambda j: (-scores[j], relevant[j]))
    hits = [relevant[j] for j in order]
    total = sum(h > 0 for h in hits)
    if not total:
        return None
    places = [place for place, h in enumerate(hits, 1) if h > 0]
    gain = sum(h / np.log2(place + 1) for place, h in enumerate(hits[:10], 1))
    best = sum(h / np.log2(place + 1) for place, h in enumerate(sorted(hits, reverse=True)[:10], 1))
    precision = [n / place for n, place in enumerate(places, 1)]
    out = {"mrr": 1 / places[0], "map": np.mean(precision), "ndcg@10": gain / best}
    for k in KS:
        first = sum(h > 0 for h in hits[:k])
        out |= {f"hit@{k}": float(first > 0), f"recall@{k}": first / total, f"precision@{k}": first / k}
    return out


def mean(found):
    kept = [one for one in found if one is not None]
    return {name: np.mean([one[name] for one in kept]) for name in kept[0]}


def check(metrics, expected):
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=2e-6), name


def cosine(a, b):
    return np.round(np.array([unit(x) for x in a], np.float64) @ np.array([unit(y) for y in b], np.float64).T, 7)


def test_groups(tmp_path):
    path = groups(tmp_path, np.random.default_rng(0))
    data, table = nearfar.data(path), rows_of(path)
    embed, split = Random(data, 1), data.splits["test"]
    z = [embed.vector(table[i]["text"]) for i in split]
    s, found = cosine(z, z), []
    for q, i in enumerate(split):
        others = [table[j] for j in split]
        found.append(
            counted(
                s[q], [o["group"] == table[i]["group"] for o in others], [o["text"] != table[i]["text"] for o in others]
            )
        )
    check(task_for(data).evaluate(embed, "test").metrics, mean(found))


def test_groups_across_domains(tmp_path):
    path = domains(tmp_path, np.random.default_rng(0))
    data, table = nearfar.data(path), rows_of(path)
    pixels = [np.asarray(Image.open(tmp_path / row["image"])).transpose(2, 0, 1) for row in table]
    embed, split, means = Random(data, 1), data.splits["test"], []
    for a, b in ("ab", "ba"):
        queries, gallery = ([i for i in split if table[i]["domain"] == x] for x in (a, b))
        s = cosine(*([embed.vector(pixels[i]) for i in side] for side in (queries, gallery)))
        means.append(
            mean(
                [
                    counted(
                        s[q],
                        [table[i]["group"] == table[j]["group"] for j in gallery],
                        [not np.array_equal(pixels[i], pixels[j]) for j in gallery],
                    )
                    for q, i in enumerate(queries)
                ]
            )
        )
    check(task_for(data).evaluate(embed, "test").metrics, mean(means))


@pytest.mark.parametrize("write", [text_pairs, image_pairs, labelled_pairs])
def test_pairs(write, tmp_path):
    path = write(tmp_path, np.random.default_rng(0))
    data, table = nearfar.data(path), rows_of(path)
    embed, split = Random(data, 1), data.splits["test"]
    a, b, *more = table[0]

    def cell(row, column):
        return (tmp_path / row[column]).read_bytes() if column == "image" else row[column]

    def vector(row, column):
        is_image = column == "image"
        return embed.vector(
            np.asarray(Image.open(tmp_path / row[column])).transpose(2, 0, 1) if is_image else row[column]
        )

    directions = []
    for x, y in ((a, b), (b, a)):
        everything = [(cell(table[i], x), cell(table[i], y), table[i]) for i in split]
        good = [one for one in everything if not more or one[2][more[0]] == "1"]
        gallery = {one[1]: vector(one[2], y) for one in everything}
        queries = {one[0]: vector(one[2], x) for one in good}
        s = cosine(list(queries.values()), list(gallery.values()))
        known = {one[:2] for one in good}
        directions.append(
            mean(
                [
                    counted(s[q], [(query, item) in known for item in gallery], [query != item for item in gallery])
                    for q, query in enumerate(queries)
                ]
            )
        )
    found = task_for(data).evaluate(embed, "test")
    check(found.metrics, mean(directions) if a == "image" else directions[0])
    for one, wanted in zip(list(found.directions.values())[:2], directions, strict=True):
        check(one, wanted)


def test_labelled_pairs_are_told_apart(tmp_path):
    path = labelled_pairs(tmp_path, np.random.default_rng(0))
    data, table = nearfar.data(path), rows_of(path)
    embed = Random(data, 1)

    def told(part):
        rows = [table[i] for i in data.splits[part]]
        sides = [[unit(embed.vector(r[name])) for r in rows] for name in ("question1", "question2")]
        return [(float(x @ y), r["is_duplicate"] == "1") for x, y, r in zip(*sides, rows, strict=True)]

    chosen, pairs = told("val"), told("test")
    ranked = [good for _, good in sorted(pairs, reverse=True)]
    places = [place for place, good in enumerate(ranked, 1) if good]
    metrics = task_for(data).evaluate(embed, "test").metrics
    assert metrics["pair ap"] == pytest.approx(np.mean([n / p for n, p in enumerate(places, 1)]))
    cuts = [-2, *(np.convolve(sorted(s for s, _ in chosen), [0.5, 0.5], "valid")), 2]
    right = [sum((s >= cut) == good for s, good in chosen) for cut in cuts]
    best = {cut for cut, value in zip(cuts, right, strict=True) if value == max(right)}
    accuracies = {np.mean([(s >= cut) == good for s, good in pairs]) for cut in best}
    assert any(metrics["pair accuracy"] == pytest.approx(value) for value in accuracies)


def test_neighbours_of_one_label(tmp_path):
    path = labels(tmp_path, np.random.default_rng(0))
    data, table = nearfar.data(path), rows_of(path)
    pixels = [np.asarray(Image.open(tmp_path / row["image"])).transpose(2, 0, 1) for row in table]
    embed, task = Random(data, 1), task_for(data, "labels")
    z = [unit(embed.vector(p).astype(np.float64)) for p in pixels]
    train, test = ([i for i, row in enumerate(table) if row["split"] == part] for part in ("train", "test"))
    right, alike = [], []
    for i in test:
        near = sorted((j for j in train if not np.array_equal(pixels[i], pixels[j])), key=lambda j: -(z[i] @ z[j]))[:20]
        votes = {}
        for j in near:
            votes[table[j]["label"]] = votes.get(table[j]["label"], 0) + np.exp(z[i] @ z[j] / 0.07)
        right.append(max(sorted(votes), key=lambda name: votes[name]) == table[i]["label"])
        alike.append(
            counted(
                [round(float(z[i] @ z[j]), 7) for j in test],
                [table[i]["label"] == table[j]["label"] for j in test],
                [not np.array_equal(pixels[i], pixels[j]) for j in test],
            )
        )
    metrics = task.evaluate(embed, "test").metrics
    assert metrics["knn"] == pytest.approx(np.mean(right))
    check(metrics, mean(alike))


def test_scores(tmp_path):
    from scipy.stats import pearsonr, spearmanr

    path = scored_pairs(tmp_path, np.random.default_rng(0))
    data, table = nearfar.data(path), rows_of(path)
    embed = Random(data, 1)
    rows = [table[i] for i in data.splits["test"]]
    cosines = [float(unit(embed.vector(r["sentence1"])) @ unit(embed.vector(r["sentence2"]))) for r in rows]
    grades = [float(r["score"]) for r in rows]
    found = task_for(data).evaluate(embed, "test")
    assert found.primary == pytest.approx(spearmanr(cosines, grades).statistic, abs=1e-4)
    assert found.metrics["pearson"] == pytest.approx(pearsonr(cosines, grades).statistic, abs=1e-4)
    low, high = found.bootstrap().bounds
    assert low < found.primary < high


def test_beir_equals_trec_eval(tmp_path):
    """The whole corpus, graded gains, the query's own document taken out as BEIR does, copies as relevant as the
    original."""
    folder = beir(tmp_path, np.random.default_rng(0))
    data = nearfar.data(folder)
    embed = Random(data, 1)
    texts = {
        name: {item["_id"]: item["text"] for item in map(json.loads, (folder / f"{name}.jsonl").open())}
        for name in ("corpus", "queries")
    }
    same_text = {}
    for key, text in texts["corpus"].items():
        same_text.setdefault(text, []).append(key)
    with (folder / "qrels" / "test.tsv").open() as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    qrels, run = {}, {}
    for line in lines:
        for key in same_text[texts["corpus"][line["corpus-id"]]]:
            at = qrels.setdefault(line["query-id"], {})
            at[key] = max(at.get(key, 0), int(line["score"]))
    keys = list(texts["corpus"])
    s = cosine([embed.vector(texts["queries"][q]) for q in qrels], [embed.vector(texts["corpus"][d]) for d in keys])
    for row, query in zip(s, qrels, strict=True):
        run[query] = {key: float(score) for key, score in zip(keys, row, strict=True) if key != query}
    measures = {"map", "recip_rank", "ndcg_cut_10"} | {f"{name}_{k}" for name in ("P", "recall", "success") for k in KS}
    trec = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    names = {"map": "map", "mrr": "recip_rank", "ndcg@10": "ndcg_cut_10"}
    names |= {
        f"{ours}@{k}": f"{theirs}_{k}"
        for k in KS
        for ours, theirs in (("hit", "success"), ("recall", "recall"), ("precision", "P"))
    }
    task = task_for(data)
    search = task.searches("test")[0]
    assert search.size == len(keys)
    metrics = task.evaluate(embed, "test").metrics
    for ours, theirs in names.items():
        assert metrics[ours] == pytest.approx(np.mean([one[theirs] for one in trec.values()]), abs=2e-6), ours
    assert task.searches("val")[0].size == len(keys), "the whole corpus in every split"


def test_ties_of_unequal_grades_never_help():
    found = nearfar.evaluation.retrieval(np.ones((1, 2)), np.ones((3, 2)), pairs=[(0, 0), (0, 1)], grades=[1, 3])
    worst = (1 / np.log2(3) + 3 / np.log2(4)) / (3 + 1 / np.log2(3))
    assert found["ndcg@10"] == pytest.approx(worst), "first the irrelevant one, then the lower grade"
    assert [found["hit@1"], found["precision@5"]] == [0, pytest.approx(2 / 5)]


def test_what_a_threshold_is_worth():
    scores, labels_ = [0.9, 0.8, 0.7, 0.2], [1, 0, 1, 0]
    assert average_precision(scores, labels_) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([0.5] * 4, labels_) == pytest.approx((1 / 3 + 2 / 4) / 2), "a tie never helps"
    assert best_threshold([0.1, 0.9], [0, 1]) == pytest.approx(0.5)
    assert best_threshold([0.9, 0.1], [0, 1], "f1") == -np.inf, "all are pairs"
    assert f1_at(scores, labels_, 0.45) == pytest.approx(2 * 2 / (3 + 2))
    close = np.float32(0.1) + np.arange(4, dtype=np.float32) * np.spacing(np.float32(0.1))
    for known in ([0, 1, 1, 1], [0, 0, 1, 1]):
        for measure, at in (("accuracy", accuracy_at), ("f1", f1_at)):
            told = at(close, known, best_threshold(close, known, measure))
            assert told == 1, "halfway between two neighbours of single precision"
