"""DSE and the model that reads both texts: labels of each kind, teachers of each kind, scores, and wrong data."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import nearfar
from nearfar import losses
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.methods.pair_teachers import scores_by
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.conftest import write_judged
from tests.small import SMALL

FLAGS = ["--text-encoder", "tiny", "--text-length", "24", "--vocabulary", "300"]
FAST = {"steps": 4, "batch_size": 16, "val_every": 0, "progress": False, **SMALL}


def prepared(data, slug="dse", settings=(), **options):
    return building.prepare(
        slug, data, TrainSettings(**{"batch_size": 8, "steps": 4, **SMALL, **dict(settings)}), options
    )


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_judged(tmp_path_factory.mktemp("dse") / "pairs.csv", 60, ("no", "yes"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three classes with a teacher's score of each."""
    path = tmp_path_factory.mktemp("dse") / "three.csv"
    names, lines = ("contradiction", "entailment", "neutral"), ["premise,hypothesis,kind,t_c,t_e,t_n"]
    for k in range(60):
        scores = ",".join(str(float(3 * (k % 3 == c) - k % 5)) for c in range(3))
        lines.append(f"the sky is number {k},it is {names[k % 3]} of {k},{names[k % 3]},{scores}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_learned_follows_from_the_columns(table, three):
    binary = prepared(open_data(table)).method
    assert (binary.judgement, binary.outputs, binary.head.layers[0].in_features) == ("binary", 1, 4 * 2 * 128)
    number = prepared(open_data(table, roles={"score": "how_near", "pair_label": None})).method
    assert (number.judgement, number.labels.max() > 2) == ("number", True)
    classes = prepared(open_data(three, roles={"target": "kind"}), teacher="t_c,t_e,t_n").method
    assert (classes.judgement, classes.outputs) == ("classes", 3)
    assert list(classes.names) == ["contradiction", "entailment", "neutral"]


@pytest.mark.parametrize("judgement", ["binary", "number", "classes"])
def test_the_loss_is_that_of_the_functions(judgement, table, three):
    if judgement == "classes":
        made = prepared(open_data(three, roles={"target": "kind"}), teacher="t_c,t_e,t_n", alpha=0.3)
    else:
        roles = {"score": "how_near", "pair_label": None} if judgement == "number" else None
        made = prepared(open_data(table, roles=roles), alpha=0.3)
    made.method.eval()
    embedded, batch, loss = step(made)
    p = made.method.head(embedded["u"], embedded["v"])
    y, t = made.method.labels[batch.rows], made.method.scores[batch.rows]
    assert not t.isnan().any()
    assert_close(loss.total, losses.dse(p, y, t, alpha=0.3, judgement=judgement))
    assert loss.terms["distilled"] == pytest.approx(losses.distillation_rows(p, t).mean().item(), rel=1e-5)


def test_a_text_alone_makes_its_vector(table):
    """Invariant 3: neither the other side nor the order of the batch changes it."""
    made = prepared(open_data(table))
    made.method.eval()
    embedded, batch, _ = step(made)
    order = torch.tensor([3, 0, 7, 1, 6, 5, 4, 2])
    other = made.loader.batch(batch.rows[order].numpy(), 0)
    other.views = {"text": made.method.make_views(other)["text"], "text_b": made.method.make_views(other)["text"]}
    assert_close(made.method.encode(other)["u"], embedded["u"][order], rtol=1e-4, atol=1e-5)


def test_the_teacher_is_joined_before_rows_are_drawn(table):
    made = prepared(open_data(table))
    batch = made.loader.at(1)
    wanted = [float(made.method.survey.data.values("teacher")[row]) for row in batch.rows.tolist()]
    assert made.method.scores[batch.rows][:, 0].tolist() == pytest.approx(wanted)
    assert batch.rows.tolist() != sorted(batch.rows.tolist())


def test_labels_of_some_rows_and_scores_of_others(table, tmp_path):
    """Of a fifth the label is known, of all but two the teacher's score; each term is over its rows."""
    lines = table.read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    for k, row in enumerate(rows):
        row[2] = row[2] if k % 5 < 2 else ""
        row[4] = row[4] if k > 1 else ""
    path = tmp_path / "some.csv"
    path.write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    made = prepared(open_data(path, roles={"pair_label": "label"}), alpha=0.4)
    made.method.eval()
    embedded, batch, loss = step(made)
    p, data = made.method.head(embedded["u"], embedded["v"])[:, 0], made.method.survey.data
    told, distilled = [], []
    for k, row in enumerate(batch.rows.tolist()):
        word, score = data.values("label")[row], data.values("teacher")[row]
        told += [-torch.log(torch.sigmoid(p[k] if word == "yes" else -p[k]))] if word else []
        distilled += [(p[k] - float(score)) ** 2] if score not in ("", None) else []
    assert 0 < len(told) < 8
    assert_close(loss.total, 0.6 * sum(told) / len(told) + 0.4 * sum(distilled) / len(distilled))


def test_two_columns_of_a_binary_teacher_are_their_margin(table, tmp_path):
    lines = table.read_text().splitlines()
    wide = [f"{line},{line.rpartition(',')[2]},1.5" for line in lines[1:]]
    path = tmp_path / "two.csv"
    path.write_text("\n".join([lines[0] + ",yes,no", *wide]) + "\n")
    made = prepared(open_data(path), teacher="no,yes").method
    wanted = np.array([float(line.rpartition(",")[2]) - 1.5 for line in lines[1:]])
    np.testing.assert_allclose(made.scores[:, 0].numpy(), wanted, rtol=1e-5)


def test_layers_poolings_and_heads(table):
    data = open_data(table)
    for options, width in (({}, 256), ({"join": "mean"}, 128), ({"layers": 1, "pooling": "max"}, 128),
                           ({"dim": 10, "first": True, "pooling": "sqrt-mean"}, 10)):  # fmt: skip
        made = prepared(data, **options)
        embedded, _, loss = step(made)
        assert embedded["u"].shape == (8, width)
        loss.total.backward()
    whole = prepared(data, settings={"preset": "paper"})
    assert whole.resolved["layers"] == "2 (all that there are; paper: 4)"
    assert whole.method.layers == 2
    with pytest.raises(InputError, match=r"'cls' of the encoder would not be used[\s\S]*Leave out --text-pooling"):
        prepared(data, settings={"text_pooling": "cls"})
    with pytest.raises(InputError, match="layers must be between 1 and 2"):
        prepared(data, layers=4)
    assert prepared(data, head="dot").method.head.layers(torch.ones(1)) == 1
    with pytest.raises(InputError, match="'dse' looks into the layers"):
        prepared(data, settings={"text_encoder": "small"})


def test_alpha_one_needs_no_labels_and_alpha_zero_no_teacher(table, tmp_path):
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.rpartition(",")[0] for line in table.read_text().splitlines()) + "\n")
    with pytest.raises(InputError, match=r"no column 'teacher' with the scores of a teacher[\s\S]*fit cross-encoder"):
        prepared(open_data(bare))
    assert prepared(open_data(bare), alpha=0.0).method.scores.isnan().all()
    lines = table.read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("\n".join([f"{lines[0]},split", *(",".join([*r[:2], "" if k < 40 else r[2], *r[3:],
                                    "train" if k < 40 else "val" if k < 50 else "test"])
                                    for k, r in enumerate(rows))]) + "\n")  # fmt: skip
    data = open_data(unlabelled, roles={"pair_label": "label", "split": "split"})
    assert step(prepared(data, alpha=1.0))[2].total > 0
    with pytest.raises(InputError, match="None of the 40 training rows has a value in 'label'"):
        prepared(data)


def test_wrong_teachers_and_labels(table, three, tmp_path, monkeypatch):
    data = open_data(table)
    with pytest.raises(InputError, match=r"no column of pairs\.csv and no folder.*Did you mean 'teacher'"):
        prepared(data, teacher="techer")
    with pytest.raises(
        InputError,
        match=r"3 columns \(teacher, teacher, teacher\), and the student tells 1 number\. "
        r"Name one column \(the score of label 1\), or two: that of label 0, then that of label 1",
    ):
        prepared(data, teacher="teacher,teacher,teacher")
    with pytest.raises(InputError, match=r"Name 3, in the order contradiction, entailment, neutral"):
        prepared(open_data(three, roles={"target": "kind"}), teacher="t_c,t_e")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    with pytest.raises(InputError, match=r"'teacher' is a column of pairs\.csv and a folder as well.*\./teacher"):
        prepared(data, teacher="teacher")
    assert prepared(data).resolved["teacher"] == "teacher"
    lines = table.read_text().splitlines()
    wrong = tmp_path / "wrong.csv"
    for cell in ("high", "inf"):
        wrong.write_text("\n".join([*lines[:5], lines[5].rpartition(",")[0] + f",{cell}", *lines[6:]]) + "\n")
        with pytest.raises(
            InputError, match=f"row .*: the teacher's score '{cell}' in 'teacher' is not a finite number"
        ):
            prepared(open_data(wrong))
    empty = tmp_path / "empty.csv"
    empty.write_text("\n".join([lines[0], *(line.rpartition(",")[0] + "," for line in lines[1:])]) + "\n")
    with pytest.raises(InputError, match="None of the 42 training rows has a score in teacher"):
        prepared(open_data(empty))
    alike = tmp_path / "alike.csv"
    alike.write_text("\n".join([lines[0] + ",again", *(line + ",2.5" for line in lines[1:])]) + "\n")
    one = open_data(alike, roles={"target": "again", "pair_label": None})
    with pytest.raises(InputError, match=r"'again' is '2\.5' in all 42 training rows"):
        prepared(one)
    with pytest.raises(InputError, match="'dot' gives one number, and 3 classes"):
        prepared(open_data(three, roles={"target": "kind"}), teacher="t_c,t_e,t_n", head="dot")


@pytest.fixture(scope="module")
def reader(table, tmp_path_factory):
    """A run of the model that reads both texts."""
    out = tmp_path_factory.mktemp("dse") / "teacher"
    nearfar.fit("cross-encoder", table, out=out, **FAST)
    return out


def test_a_model_that_reads_both_is_a_teacher(table, three, reader):
    """Scores once, in evaluation mode, of training rows alone; the same for any order and batch."""
    data = open_data(table)
    made = prepared(data, teacher=str(reader))
    assert made.method.scores.isnan().all()
    first = next(iter(made.loader))
    told = nearfar.predict(reader, data)
    wanted = torch.tensor(told.columns["score"])
    found = made.method.scores[:, 0]
    train = data.splits["train"]
    assert_close(found[train], wanted[train], rtol=1e-4, atol=1e-5)
    assert found[data.splits["test"]].isnan().all()
    assert not made.method.scores[first.rows].isnan().any()
    kept = made.method.scores.clone()
    made.method.before_draw(1)
    assert torch.equal(kept[train], made.method.scores[train])
    with pytest.raises(InputError, match="tells a yes/no label, and the student learns contradiction, entailment"):
        next(iter(prepared(open_data(three, roles={"target": "kind"}), teacher=str(reader)).loader))


def test_a_joint_score_depends_on_both_sides_and_their_order(table, reader):
    from nearfar.methods import Request

    module = nearfar.load(reader / "model").inference
    data = open_data(table)
    rows = np.arange(6)
    with torch.inference_mode():
        whole = module.score(Request(data, rows, None), None)
        single = torch.cat([module.score(Request(data, rows[k : k + 1], None), None) for k in range(6)])
    assert_close(whole, single, rtol=1e-4, atol=1e-5)
    assert whole.std() > 0


def classifier(folder, labels, words):
    """A tiny random sequence classifier, as transformers writes it."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    named: Any = {"id2label": dict(enumerate(labels)), "label2id": {name: k for k, name in enumerate(labels)}}
    named |= {"vocab_size": 5 + len(words), "max_position_embeddings": 40, "initializer_range": 1.0}
    config = BertConfig(**named, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def raw(folder, data, rows):
    """What the classifier in a folder says of rows, in the order of its outputs."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    sides = [data.texts(role, rows) for role in ("text", "text_b")]
    return model(**AutoTokenizer.from_pretrained(folder)(*sides, padding=True, return_tensors="pt")).logits.detach()


def numbered(path, column, names):
    """The table with one column as numbers of named classes."""
    import csv

    from datasets import ClassLabel, Dataset

    with path.open() as file:
        table = Dataset.from_list(list(csv.DictReader(file)))
    table.cast_column(column, ClassLabel(names=names)).to_parquet(str(path.with_suffix(".parquet")))
    return path.with_suffix(".parquet")


WORDS = ["the", "cat", "dog", "a", "that", "sleeps", "runs", "sky", "is", "it", "of", "number"]


@pytest.mark.parametrize(
    ("labels", "yes"),
    [
        (["LABEL_0", "LABEL_1"], 1),
        (["LABEL_1", "LABEL_0"], 0),
        (["not_duplicate", "duplicate"], 1),
        (["duplicate", "not_duplicate"], 0),
        (["entailment", "not_entailment"], 0),
    ],
)
def test_the_sign_of_a_binary_classifier_follows_its_names(labels, yes, table, tmp_path):
    data, rows = open_data(table), np.array([0, 5, 9])
    folder = classifier(tmp_path / "two", labels, WORDS)
    logits = raw(folder, data, rows)
    assert_close(scores_by(str(folder), data, rows, "binary", ()), logits[:, [yes]] - logits[:, [1 - yes]])
    by_number = open_data(numbered(table, "label", ["yes", "no"]), roles={"pair_label": "label"})
    found = scores_by(str(folder), by_number, rows, "binary", ())
    sign = -1 if labels[0].startswith("LABEL") else 1  # number 1 of these data is no
    assert_close(found, sign * (logits[:, [yes]] - logits[:, [1 - yes]]))


def test_a_sequence_classifier_is_a_teacher(three, table, tmp_path):
    rows, classes = np.array([0, 5, 9]), open_data(three, roles={"target": "kind"})
    names = classes.target_names
    turned = classifier(tmp_path / "turned", ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], WORDS)
    plain = classifier(tmp_path / "plain", ["LABEL_0", "LABEL_1", "LABEL_2"], WORDS)
    logits = raw(turned, classes, rows)
    assert_close(scores_by(str(turned), classes, rows, "classes", names), logits[:, [2, 0, 1]])
    with pytest.raises(InputError, match=r"tells LABEL_0, LABEL_1, LABEL_2, .*which is which.*\n?.*id2label"):
        scores_by(str(plain), classes, rows, "classes", names)
    by_number = open_data(numbered(three, "kind", ["entailment", "neutral", "contradiction"]), roles={"target": "kind"})
    assert by_number.target_names == names
    assert_close(scores_by(str(plain), by_number, rows, "classes", names), logits[:, [2, 0, 1]])
    two = classifier(tmp_path / "two", ["near", "far"], WORDS)
    with pytest.raises(InputError, match="tells near, far, and the student learns a yes/no label: which is which"):
        scores_by(str(two), open_data(table), rows, "binary", ())
    with pytest.raises(InputError, match="tells near, far, and the student learns a score"):
        scores_by(str(two), classes, rows, "number", ())
    with pytest.raises(InputError, match="holds no model of pairs"):
        scores_by(str(tmp_path), classes, rows, "classes", names)


def test_a_long_pair_is_cut_to_the_places_of_the_model(tmp_path):
    """RoBERTa counts its places from the padding on, so that 40 of them hold 38 tokens."""
    from tests.encoders.roberta import write_roberta

    path = tmp_path / "long.csv"
    rows = [f"{'a b c ' * 20}{k},{'b c a ' * 20}{k},{k % 2}" for k in range(12)]
    path.write_text("\n".join(["sentence1,sentence2,label", *rows]) + "\n")
    folder = write_roberta(tmp_path / "roberta", classes=2)
    found = scores_by(str(folder), open_data(path, roles={"pair_label": "label"}), np.arange(3), "binary", ())
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("suffixes", "taken"),
    [
        (["2", "10", "1"], ["1", "2", "10"]),
        (["neutral", "Entailment", "contradiction"], ["contradiction", "Entailment", "neutral"]),
    ],
)
def test_columns_of_a_teacher_find_their_class(suffixes, taken, three, tmp_path):
    path = tmp_path / "auto.csv"
    header, *lines = three.read_text().splitlines()
    path.write_text(
        "\n".join([header.replace("t_c,t_e,t_n", ",".join(f"teacher_{x}" for x in suffixes)), *lines]) + "\n"
    )
    made = prepared(open_data(path, roles={"target": "kind"}))
    pairs = zip(("contradiction", "entailment", "neutral"), taken, strict=True)
    assert made.resolved["teacher"] == " ".join(f"{name}=teacher_{x}" for name, x in pairs)
    row = [float(x) for x in lines[0].split(",")[3:]]
    assert made.method.scores[0].tolist() == [row[suffixes.index(x)] for x in taken]


@pytest.mark.parametrize(
    ("suffixes", "told"),
    [
        (["duplicate", "not_duplicate"], "duplicate - teacher_not_duplicate"),
        (["1", "0"], "1 - teacher_0"),
        (["b", "a"], "b - teacher_a"),
    ],
)
def test_two_columns_of_a_teacher_find_their_label(suffixes, told, table, tmp_path):
    path = tmp_path / "auto.csv"
    header, *lines = table.read_text().splitlines()
    names = ",".join(f"teacher_{x}" for x in suffixes)
    path.write_text("\n".join([header.replace("teacher", names), *(line + ",1.5" for line in lines)]) + "\n")
    made = prepared(open_data(path))
    assert made.resolved["teacher"] == f"teacher_{told}"
    assert made.method.scores[0, 0].item() == pytest.approx(float(lines[0].rpartition(",")[2]) - 1.5)


def test_the_classes_of_numbered_data_name_the_columns(three, tmp_path):
    path = tmp_path / "auto.csv"
    path.write_text(three.read_text().replace("t_c,t_e,t_n", "teacher_0,teacher_1,teacher_2", 1))
    data = open_data(numbered(path, "kind", ["entailment", "neutral", "contradiction"]), roles={"target": "kind"})
    told = "contradiction=teacher_2 entailment=teacher_0 neutral=teacher_1"
    assert prepared(data).resolved["teacher"] == told


def test_two_classes_are_one_number(table, tmp_path):
    data = open_data(table, roles={"target": "label", "pair_label": None})
    made = prepared(data)
    assert (made.method.judgement, made.method.outputs, tuple(made.method.names)) == ("binary", 1, ("no", "yes"))
    assert made.resolved["learns"] == "yes or no"
    nearfar.fit("cross-encoder", table, target="label", pair_label="none", out=tmp_path / "two", **FAST)
    found = nearfar.predict(tmp_path / "two", data)
    assert set(found.columns["prediction"]) <= {"no", "yes"}
    assert min(found.columns["share"]) >= 0.5
    assert_close(scores_by(str(tmp_path / "two"), data, np.arange(4), "binary", ("no", "yes")).isfinite().all(),
                 torch.tensor(True))  # fmt: skip


@pytest.mark.parametrize("labels", [None, "again"])
def test_the_teacher_alone_needs_no_label(labels, table, tmp_path):
    """None at all, or the same one everywhere."""
    path = tmp_path / "bare.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    path.write_text(
        "\n".join(",".join([a, b, "again" if k == 0 else "x", t]) for k, (a, b, _, _, t) in enumerate(lines))
    )
    data = open_data(path, roles={"target": labels} if labels else None)
    made = prepared(data, alpha=1.0)
    assert (made.method.judgement, made.resolved["learns"]) == ("number", "a score")
    loss = step(made)[2]
    assert loss.total > 0
    assert "label" not in loss.terms
    wanted = "'again' is 'x' in all" if labels else "'dse' needs a label of the pairs, or --alpha 1"
    with pytest.raises(InputError, match=wanted):
        prepared(data)
    run = nearfar.fit("dse", data, alpha=1.0, out=tmp_path / "run", **FAST)
    assert len(nearfar.predict(run.path, data).columns["prediction"]) == 60


def test_a_diverged_model_is_no_missing_label(table):
    made = prepared(open_data(table), "cross-encoder")
    with torch.no_grad():
        made.method.scorer.last.bias.fill_(float("nan"))
    assert step(made)[2].total.isnan()


@pytest.mark.parametrize("slug", ["dse", "cross-encoder"])
def test_long_texts_are_read_from_their_start(slug, tmp_path):
    path = tmp_path / "long.csv"
    tail = " ".join(["cat", "dog"] * 40)
    path.write_text("\n".join(["sentence1,sentence2,label,teacher", *(f"one {k} {tail},two {k} {tail},{k % 2},{k % 3}"
                                                                       for k in range(40))]) + "\n")  # fmt: skip
    made = prepared(open_data(path, roles={"pair_label": "label"}), slug)
    a, batch = made.loader.at(0).inputs["text"], made.loader.at(0)
    texts = made.method.survey.data.texts("text", batch.rows.numpy())
    for ids, known in zip(a.ids.tolist(), made.method.tower.encoder.encode_ids(texts), strict=True):
        assert ids == known[: len(ids)]
        assert len(ids) < len(known)


def test_one_positive_pair_in_a_split(table, tmp_path):
    """From a table to scores, where retrieval has a single query."""
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    split = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    for k, row in enumerate(rows):
        row[2] = "yes" if (k % 2 and k < 40) or k in (41, 51, 53) else "no"
    path = tmp_path / "one.csv"
    lines = [",".join([a, b, y, t, s]) for (a, b, y, _, t), s in zip(rows, split, strict=True)]
    path.write_text("\n".join(["sentence1,sentence2,label,teacher,split", *lines]))
    run = str(tmp_path / "run")
    assert main(["fit", "dse", str(path), *FLAGS, "--pair-label", "label", "--steps", "4", "--batch-size", "8",
                 "--val-every", "2", "--out", run, "--device", "cpu"]) == 0  # fmt: skip
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["val"]["metrics"]


def test_from_a_table_to_answers(table, tmp_path, capsys):
    """fit, predict, embed, search and report, from the command line; what is told is the head on stored vectors."""
    run = str(tmp_path / "run")
    assert main(["fit", "dse", str(table), *FLAGS, "--steps", "30", "--batch-size", "16", "--val-every", "0", "--out",
                 run, "--device", "cpu"]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert "learns a yes/no label" in told
    assert main(["fit", "dse", str(table), *FLAGS, "--dry-run"]) == 0
    assert main(["predict", run, str(table), "--out", str(tmp_path / "told.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    model, data = nearfar.load(tmp_path / "run" / "model"), open_data(table)
    model.similarity = "dot"
    u, v = (torch.from_numpy(model.embed_texts(data.texts(role))) for role in ("text", "text_b"))
    with torch.no_grad():
        score = model.inference.scorer.head(u, v)[:, 0]
    assert [x["score"] for x in lines] == pytest.approx(score.tolist(), rel=1e-3, abs=1e-4)
    assert [x["prediction"] for x in lines] == (score >= 0).long().tolist()
    assert main(["predict", run, str(table), "--threshold", "0.99"]) == 0
    assert main(["embed", run, str(table), "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "the cat sleeps"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0


def test_classes_and_numbers_are_told(table, three, tmp_path):
    nearfar.fit("dse", three, target="kind", teacher="t_c,t_e,t_n", out=tmp_path / "classes", **FAST)
    found = nearfar.predict(tmp_path / "classes", three, target="kind")
    assert set(found.columns["prediction"]) <= {"contradiction", "entailment", "neutral"}
    assert "score" not in nearfar.load(tmp_path / "classes" / "model").inference.verbs
    nearfar.fit("cross-encoder", table, score="how_near", pair_label="none", out=tmp_path / "number", **FAST)
    found = nearfar.predict(tmp_path / "number", table, score="how_near", pair_label="none")
    assert all(isinstance(x, float) for x in found.columns["prediction"])


@pytest.mark.parametrize("slug", ["dse", "cross-encoder"])
def test_pairs_are_measured_by_what_the_model_says_of_them(slug, table, tmp_path):
    """Average precision and rank correlation of its own scores, not of the cosine of its vectors."""
    from nearfar import evaluation
    from nearfar.evaluation.pairwise import average_precision, spearman
    from nearfar.training.modelled import ModelEmbedder

    nearfar.fit(slug, table, task="pair-labels", out=tmp_path / "run", **FAST)
    told = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]
    data, model = open_data(table), nearfar.load(tmp_path / "run" / "model")
    rows = data.splits["test"]
    scores = np.array(nearfar.predict(tmp_path / "run", data).columns["score"])[rows]
    assert told["metrics"]["ap"] == pytest.approx(average_precision(scores, data.pair_labels[rows]))
    graded = open_data(table, roles={"score": "how_near", "pair_label": None})
    found = evaluation.task_for(graded, "sts").evaluate(ModelEmbedder(model, graded), "test")
    assert found.primary == pytest.approx(spearman(scores, graded.scores[graded.splits["test"]]))
