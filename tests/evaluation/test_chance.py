"""Every task, on data that the library reads from files, gives chance for vectors that know nothing.

The files hold duplicates, copies across columns and splits, several relevant items and grades. Equal contents get equal
vectors, as from any encoder, so an item that could find itself (or a copy of itself) would be far above chance.
"""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar import modalities
from nearfar.evaluation import references, task_for, tasks
from tests.compositions import write_shapes

SEEDS = 5


class Random:
    """Vectors (and maps) drawn anew for each different content."""

    size = 16

    def __init__(self, data, seed, width=24):
        self.data, self.seed, self.width = data, seed, width

    def vector(self, item):
        item = getattr(item, "number", item)
        raw = item.encode() if isinstance(item, str) else np.asarray(item).tobytes()
        digest = hashlib.blake2b(raw, digest_size=8, salt=str(self.seed).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest, "little")).normal(size=self.width).astype(np.float32)

    def items(self, role, items):
        return np.stack([self.vector(item) for item in items])

    def __call__(self, role, rows):
        return self.items(role, modalities.of(role).items(self.data, role, rows, 16))

    def raw(self, role, rows):
        return self(role, rows)

    def of_variant(self, name):
        return Random(self.data, self.seed + 1000 * len(name), self.width)

    def corpus(self, role):
        return self.items(role, self.data.corpus[role])

    def check_whole(self, role, items):
        pass

    def blocks(self, role):
        return ()

    def maps(self, role, rows, layer=None):
        for row in rows:
            generator = np.random.default_rng([self.seed, int(row)])
            yield generator.normal(size=(1, 4, 4, 4)).astype(np.float32)


def words(rng, count=6):
    return " ".join("".join(rng.choice(list("aeioubdfglmnrst"), 5)) for _ in range(count))


def table(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def noise(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def text_pairs(folder, rng):
    """Questions with several answers, answers of several questions, and texts that stand in both columns."""
    questions, answers = [words(rng) for _ in range(240)], [words(rng) for _ in range(200)]
    answers[:20] = questions[:20]
    pick = rng.integers(0, 200, 500)
    return table(
        folder / "pairs.csv", ["question", "answer"], [(questions[i % 240], answers[k]) for i, k in enumerate(pick)]
    )


def image_pairs(folder, rng):
    rows = []
    for i in range(150):
        noise(folder / f"{i}.png", rng)
        rows += [(f"{i}.png", words(rng)) for _ in range(1 + i % 2)]
    return table(folder / "captions.csv", ["image", "caption"], rows)


def scenes_in_words(folder, rng):
    """Images with captions of two things in relation; some captions are short, some images have two."""
    rows = []
    for i in range(600):
        noise(folder / f"{i}.png", rng)
        (a, b), (c, d) = (rng.permutation(x)[:2] for x in (["red", "blue", "green"], ["dog", "cat", "cup", "tree"]))
        between = rng.choice(["left of", "on", "and", "behind"])
        rows += [(f"{i}.png", f"a {a} {c} {between} a {b} {d}" if i % 7 else f"{words(rng, 1)} {i}")] * (1 + i % 2)
    return table(folder / "scenes.csv", ["image", "caption"], rows)


def labelled_pairs(folder, rng):
    anchors = [words(rng) for _ in range(300)]
    rows = [(anchors[i % 300], words(rng), int(i < 300 or i % 3 == 0)) for i in range(600)]
    return table(folder / "labelled.csv", ["question1", "question2", "is_duplicate"], rows)


def scored_pairs(folder, rng):
    return table(
        folder / "scored.csv",
        ["sentence1", "sentence2", "score"],
        [(*sharing_words(rng), f"{rng.random() * 5:.1f}") for _ in range(900)],
    )


def sharing_words(rng):
    """Two texts of unlike lengths that have some words in common."""
    first, second = words(rng, rng.integers(3, 9)), words(rng)
    return first, " ".join([*second.split(), *first.split()[: rng.integers(0, 3)]])


def pairs_of_domains(folder, rng):
    """Pairs in three languages of unlike sizes; some second sides belong to several rows."""
    second = [words(rng) for _ in range(700)]
    rows = [
        (words(rng), second[i - i % 2 if i % 10 == 1 else i], ["de", "fr", "it"][min(i % 5, 2)]) for i in range(700)
    ]
    return table(folder / "languages.csv", ["sentence1", "sentence2", "language"], rows)


def beir(folder, rng):
    docs = {f"d{i}": words(rng) for i in range(300)}
    docs |= {f"copy{i}": docs[f"d{i}"] for i in range(40)}
    queries = {f"q{i}": words(rng) for i in range(90)} | {f"d{i}": docs[f"d{i}"] for i in range(200, 230)}
    (folder / "beir" / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", docs), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / "beir" / f"{name}.jsonl").write_text("\n".join(lines))
    for name, keys in zip(("train", "dev", "test"), np.array_split(list(queries), 3), strict=True):
        lines = [f"{key}\td{rng.integers(0, 200)}\t{rng.integers(1, 4)}\n" for key in keys for _ in range(3)]
        lines = list({line.rsplit("\t", 1)[0]: line for line in lines}.values())
        (folder / "beir" / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder / "beir"


def groups(folder, rng):
    """Groups of four, two of which are copies; some texts stand in two groups."""
    rows = []
    for g in range(150):
        one, two, three = (words(rng) for _ in range(3))
        rows += [(one, g), (one, g), (two, g), (three if g % 5 else "the same in many groups", g)]
    return table(folder / "groups.csv", ["text", "group"], rows)


def domains(folder, rng):
    """Each thing in two hands; one in ten looks the same in both."""
    rows = []
    for i in range(160):
        for hand in "ab":
            noise(folder / f"{hand}{i}.png", rng)
        if i % 10 == 0:
            (folder / f"b{i}.png").write_bytes((folder / f"a{i}.png").read_bytes())
        rows += [(f"{hand}{i}.png", i, hand) for hand in "ab"]
    return table(folder / "domains.csv", ["image", "group", "domain"], rows)


def labels(folder, rng):
    """A given split with copies of training images in the test part, all of their own label."""
    rows = []
    for i in range(450):
        noise(folder / f"{i}.png", rng)
        rows.append((f"{i}.png", f"kind {i % 5}", ("train", "train", "val", "test")[i // 5 % 4]))
    for i in range(0, 120):
        (folder / f"again{i}.png").write_bytes((folder / f"{i}.png").read_bytes())
        rows.append((f"again{i}.png", f"kind {i % 5}", "test"))
    return table(folder / "labels.csv", ["image", "label", "split"], rows)


def masks(folder, rng):
    for part in ("images", "masks"):
        (folder / "field" / part).mkdir(parents=True)
    for i in range(60):
        noise(folder / "field" / "images" / f"{i}.png", rng)
        mask = np.kron(rng.integers(0, 2, (4, 4), dtype=np.uint8), np.ones((4, 4), np.uint8))
        Image.fromarray(mask).save(folder / "field" / "masks" / f"{i}.png")
    return folder / "field"


def proxy(folder, rng):
    return table(folder / "texts.csv", ["text"], [(words(rng),) for _ in range(400)] * 2)


def numbers(rng):
    return [f"{value:.5f}" for value in rng.normal(size=3)]


def rows_of_numbers(folder, rng):
    """Rows of numbers, each twice, that nothing is known of."""
    return table(folder / "numbers.csv", ["a", "b", "c"], [numbers(rng) for _ in range(400)] * 2)


def labelled_numbers(folder, rng):
    """A given split with copies of training rows in the test part, all of their own label."""
    rows = [(*numbers(rng), f"kind {i % 5}", ("train", "train", "val", "test")[i // 5 % 4]) for i in range(450)]
    rows += [(*row[:3], row[3], "test") for row in rows[:120]]
    return table(folder / "labelled.csv", ["a", "b", "c", "label", "split"], rows)


def grouped_numbers(folder, rng):
    return table(
        folder / "grouped.csv", ["a", "b", "c", "group"], [(*numbers(rng), g) for g in range(250) for _ in range(3)]
    )


def numbers_to_tell(folder, rng):
    """Rows of numbers, some of them twice with another amount; a few amounts are missing."""
    rows = [(*numbers(rng), "" if i % 40 == 3 else f"{rng.normal():.4f}") for i in range(500)]
    rows += [(*row[:3], f"{rng.normal():.4f}") for row in rows[:60]]
    return table(folder / "amounts.csv", ["a", "b", "c", "amount"], rows)


def texts_to_tell(folder, rng):
    return table(folder / "amounts.csv", ["text", "amount"], [(words(rng), f"{rng.random():.4f}") for _ in range(400)])


def images_to_tell(folder, rng):
    for i in range(300):
        noise(folder / f"{i}.png", rng)
    return table(folder / "amounts.csv", ["image", "amount"], [(f"{i}.png", f"{rng.random():.4f}") for i in range(300)])


def two_sets(folder, rng):
    """A background whose rows lack the second label; copies of target rows of one label each in the test part."""
    rows = []
    for i in range(600):
        noise(folder / f"{i}.png", rng)
        salient = "" if i % 3 == 0 else f"sign {i // 3 % 4}"
        rows.append((f"{i}.png", f"kind {i % 5}", salient, ("train", "train", "val", "test")[i // 60 % 4]))
    return table(folder / "sets.csv", ["image", "label", "sign", "split"], rows)


def two_sets_of_numbers(folder, rng):
    rows = [(*numbers(rng), f"kind {i % 3}", "" if i % 2 else f"sign {i // 2 % 3}") for i in range(900)]
    return table(folder / "sets.csv", ["a", "b", "c", "label", "sign"], rows)


def bags_of_numbers(folder, rng):
    """Bags of unlike sizes, one in eight without a label; some rows stand in several bags, some labels are missing."""
    again, rows = [numbers(rng) for _ in range(30)], []
    for bag in range(240):
        state = "" if bag % 8 == 5 else ("normal", "tumour")[rng.integers(2)]
        rows += [
            (
                *(again[rng.integers(30)] if place == 0 else numbers(rng)),
                f"slide {bag}",
                state,
                "" if place == 1 else rng.choice(["normal", "tumour"]),
            )
            for place in range(rng.integers(3, 9))
        ]
    return table(folder / "slides.csv", ["a", "b", "c", "slide", "state", "truth"], rows)


def bags_of_texts(folder, rng):
    return table(
        folder / "bags.csv",
        ["text", "slide", "state"],
        [(words(rng), bag, rng.integers(2) if place == 0 else "") for bag in range(200) for place in range(4)],
    )


def dialogues(folder, rng):
    """Single utterances of the user with a tree each; one in five stands twice, with the same tree."""
    rows = []
    for i in range(1500):
        domain, intent = f"domain {rng.integers(4)}", f"intent {rng.integers(4)}"
        tree = [[domain, intent, f"slot {rng.integers(3)}", f"value {rng.integers(5)}"]] if i % 10 else None
        turn = {"role": "user", "text": words(rng), **({"tree": tree} if tree else {})}
        rows += [{"turns": [turn]}] * (2 if i % 5 == 0 else 1)
    path = folder / "dialogues.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def network(folder, rng):
    """A graph of 500 nodes whose classes nothing tells, with numbers that nothing follows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"v{i}", "abc"[rng.integers(3)], f"{rng.normal():.3f}") for i in range(500)]
    table(folder / "nodes.csv", ["id", "label", "x"], rows)
    table(folder / "edges.csv", ["source", "target"], [(f"v{a}", f"v{b}") for a, b in rng.integers(0, 500, (2500, 2))])
    return folder


def interactions(folder, rng):
    """Histories of unlike lengths in mixed order; copies, users of one item, equal times, items of the test alone."""
    rows = []
    for user in range(400):
        for place in range(rng.integers(1, 12)):
            rows.append((f"u{user}", f"i{rng.integers(60 if place < 8 else 75)}", int(rng.integers(40))))
    return table(
        folder / "log.csv", ["user", "item", "time"], [rows[i] for i in rng.permutation(len(rows))] + rows[:50]
    )


def numbered_interactions(folder, rng):
    """The same without times, with ids that are numbers."""
    rows = [(user, int(rng.integers(50))) for user in range(300) for _ in range(rng.integers(2, 9))]
    return table(folder / "log.csv", ["user", "item"], rows)


def labelled_series(folder, rng):
    """Series of unlike lengths; one in six is a copy of the one before."""
    rows = []
    for i in range(400):
        rows.append(rows[-1] if i % 6 == 5 else ",".join(f"{x:.3f}" for x in rng.normal(size=rng.integers(5, 12))))
    lines = [f"{row}:{rng.choice(['a', 'b'])}" for row in rows]
    path = folder / "s.ts"
    path.write_text("\n".join(["@univariate true", "@classLabel true a b", "@data", *lines]))
    return path


def stamped(folder, rng):
    """One long series of two channels that nothing can tell, with missing values."""
    rows = [(day, f"{rng.normal():.4f}", "" if day % 50 == 7 else f"{rng.normal():.4f}") for day in range(2400)]
    return table(folder / "long.csv", ["time", "load", "heat"], rows)


def compositions(folder, rng):
    """Images of twenty pairs; vectors drawn by their contents know nothing of them."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_shapes(folder, each=60)


def described_digits(folder, rng):
    return "digit-attributes"


# task -> writers of data that it measures; a task that is added needs one
DATA = {
    "dense": [masks],
    "sts": [scored_pairs],
    "pairs": [text_pairs, image_pairs, labelled_pairs, beir, pairs_of_domains],
    "pair-labels": [labelled_pairs],
    "code-search": [text_pairs, pairs_of_domains],
    "bitext": [text_pairs, pairs_of_domains],
    "groups": [groups, domains, grouped_numbers],
    "labels": [labels, labelled_numbers, network, labelled_series],
    "clustering": [labels, labelled_numbers, network],
    "link-prediction": [network],
    "classification": [labels, labelled_numbers],
    "zero-shot": [labels, labelled_numbers],
    "order": [scenes_in_words, image_pairs],
    "few-shot": [labels, labelled_numbers],
    "bags": [bags_of_numbers, bags_of_texts],
    "regression": [numbers_to_tell, texts_to_tell, images_to_tell],
    "separation": [two_sets, two_sets_of_numbers],
    "trees": [dialogues],
    "next-item": [interactions, numbered_interactions],
    "forecasting": [stamped],
    "proxy": [proxy, rows_of_numbers],
    "compositions": [compositions],
    "generalised-zero-shot": [described_digits],
}


def test_every_task_is_covered():
    assert set(DATA) == set(tasks.TASKS.own())


def opened(kind, write, folder):
    further = ["truth"] if write is bags_of_numbers else []
    roles = {"regression": {"target": "amount"}, "separation": {"label": ["label", "sign"]},
             "bags": {"bag": "slide", "target": "state", "label": further},
             "next-item": {"user": "user", "item": "item"}}.get(kind)  # fmt: skip
    further_options = {"window": 40} if kind == "forecasting" else {}
    path = write(folder, np.random.default_rng(0))
    data = nearfar.data(path, **({"roles": roles} if roles else {}), **further_options)
    few = {
        "few-shot": {"shots": (1,), "queries": 5, "episodes": 150},
        "sts": {"biases": True},
        "forecasting": {"horizons": "5,20", "context": 30, "places": 400},
    }.get(kind, {})
    return data, task_for(data, kind, **few)


def expected(data, task, name, value):
    """What knows nothing reaches: the row called chance; of a nearest neighbour the share of the classes, squared."""
    guessed = {"labels": ("knn", "knn_balanced", "probe"), "classification": ("accuracy", "macro f1")}
    if name not in guessed.get(task.kind, ()):
        return value
    kinds = np.array(data.values("label", task.labelled("test")))
    shares = np.unique(kinds, return_counts=True)[1] / len(kinds)
    return float((shares**2).sum()) if name not in ("knn_balanced", "macro f1") else 1 / len(shares)


@pytest.mark.parametrize(
    ("kind", "write"),
    [(kind, write) for kind, all_ in DATA.items() for write in all_],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_vectors_that_know_nothing_reach_chance(kind, write, tmp_path):
    data, task = opened(kind, write, tmp_path)
    chance = references(data, task)[0].evaluate("test")
    found = [task.evaluate(Random(data, seed), "test") for seed in range(SEEDS)]
    for name, value in chance.metrics.items():
        values = [scores.metrics[name] for scores in found]
        spread = max(np.std(values, ddof=1) / np.sqrt(SEEDS), 0.004)
        wanted = expected(data, task, name, value)
        bounds = ("miou", "pixel accuracy", "pair accuracy", "pair f1", "bag_accuracy")  # by the commonest class
        one_sided = name in bounds
        low = -np.inf if one_sided else wanted - 5 * spread - 0.01
        assert low <= np.mean(values) <= wanted + 5 * spread + 0.015, (name, np.mean(values), wanted)
