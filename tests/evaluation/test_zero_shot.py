"""Zero-shot: classes by their names, against loops that share no code; the task and `nearfar predict` end to end."""

import csv
import json

import numpy as np
import pytest

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation import task_for
from nearfar.evaluation.zero_shot import (
    class_hits,
    class_vectors,
    names_of,
    prompts_of,
    read_class_names,
    read_templates,
)
from tests.colours import write_colours

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "dark_grey": (60, 60, 60)}


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Images of one colour with a caption that names it among other words, and its class."""
    starts = ["a square", "one tile", "some field"]
    return write_colours(
        tmp_path_factory.mktemp("colours"),
        COLOURS,
        160,
        lambda rng, name, i: f"{rng.choice(starts)} of {name.replace('_', ' ')} number {i}",
    )


@pytest.fixture(scope="module")
def model(captions, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    nearfar.fit("pairs", captions, out=out, steps=60, batch_size=32, val_every=0, label="colour")
    return out


def rows_of(table):
    with open(table) as file:
        return list(csv.DictReader(file))


def by_hand(model, table, templates):
    """Accuracy over the test rows, with loops over the file."""
    loaded = nearfar.load(model / "model")
    classes = []
    for name in COLOURS:
        z = loaded.embed_texts([t.replace("{}", name.replace("_", " ")) for t in templates]).astype(np.float64)
        mean = sum(row / np.sqrt((row**2).sum()) for row in z) / len(z)
        classes.append(mean / np.sqrt((mean**2).sum()))
    data = nearfar.data(table, roles={"label": "colour"})
    rows = rows_of(table)
    right = []
    for row in data.splits["test"]:
        (z,) = loaded.embed_images([table.parent / rows[row]["image"]])
        right.append(list(COLOURS)[int(np.argmax([z @ c for c in classes]))] == rows[row]["colour"])
    return np.mean(right)


@pytest.mark.parametrize("templates", [["{}"], ["a tile of {}", "one field of {} number 3", "{}"]])
def test_the_task_is_that_of_a_loop_over_the_file(templates, model, captions, tmp_path):
    given = {}
    if len(templates) > 1:
        (tmp_path / "templates.txt").write_text("\n".join(templates) + "\n\n")
        given = {"templates": str(tmp_path / "templates.txt")}
    found = nearfar.evaluate(model, captions, task="zero-shot", label="colour", **given)
    assert found["rows"][0]["primary"] == pytest.approx(by_hand(model, captions, templates))
    assert found["rows"][0]["primary"] > 0.6
    assert found["rows"][1]["slug"] == "chance"
    assert found["rows"][1]["primary"] == pytest.approx(0.25)


def test_predictions_are_those_of_the_task(model, captions, tmp_path):
    found = nearfar.predict(model, captions, classes="red,green,blue,dark grey", on="test", top=4)
    truth = [row["colour"].replace("_", " ") for row in rows_of(captions)]
    data = nearfar.data(captions)
    right = np.mean([told == truth[row] for told, row in zip(found.columns["prediction"], data.splits["test"])])
    assert right == pytest.approx(by_hand(model, captions, ["{}"]))
    for k in range(len(found.keys)):
        ends = ["", "_2", "_3", "_4"]
        scores = [found.columns[f"score{end}"][k] for end in ends]
        assert scores == sorted(scores, reverse=True)
        assert len({found.columns[f"prediction{end}"][k] for end in ends}) == 4
    (tmp_path / "names.csv").write_text("R,red\nG,green\nB,blue\nB,bright blue\n")
    out = tmp_path / "told.csv"
    assert (
        main(["predict", str(model), str(captions), "--classes", str(tmp_path / "names.csv"), "--out", str(out)]) == 0
    )
    assert {row["prediction"] for row in rows_of(out)} <= {"R", "G", "B"}


def test_names_given_in_a_file_take_the_place_of_codes(model, captions, tmp_path):
    names = {"red": ["red"], "green": ["blue"], "blue": ["green"], "dark_grey": "dark grey"}
    (tmp_path / "names.json").write_text(json.dumps(names))
    right = nearfar.evaluate(model, captions, task="zero-shot", label="colour")
    wrong = nearfar.evaluate(
        model, captions, task="zero-shot", label="colour", class_names=str(tmp_path / "names.json")
    )
    assert wrong["rows"][0]["primary"] < right["rows"][0]["primary"] - 0.2


def test_ties_count_by_chance():
    scores = np.array([[1.0, 1, 1, 1], [2, 1, 1, 0], [0, 1, 1, 1], [3, 2, 1, 0]])
    np.testing.assert_allclose(class_hits(scores, np.array([0, 1, 3, 3])), [1 / 4, 0, 1 / 3, 0])
    np.testing.assert_allclose(class_hits(scores, np.array([0, 1, 3, 3]), 2), [2 / 4, 1 / 2, 2 / 3, 0])
    np.testing.assert_allclose(class_hits(scores, np.array([0, 1, 3, 3]), 9), 1)


def test_a_class_is_the_mean_of_unit_vectors():
    table = {"a x": [3.0, 0], "a y": [0, 0.5], "b x": [0, -2], "b y": [0, -4]}
    made = class_vectors(
        prompts_of([["a"], ["b"]], ["{} x", "{} y"]), lambda texts: np.array([table[t] for t in texts])
    )
    np.testing.assert_allclose(made, [[np.sqrt(0.5), np.sqrt(0.5)], [0, -1]])


def test_wrong_templates_and_names(tmp_path):
    with pytest.raises(InputError, match="neither a file of templates nor a template"):
        read_templates("a photo")
    with pytest.raises(InputError, match="neither a file of templates nor a template"):
        read_templates("a photo " * 1000)
    (tmp_path / "t.txt").write_text("a photo of {}\n\na drawing\n")
    with pytest.raises(InputError, match=r"line 3: the template 'a drawing' has no \{\}"):
        read_templates(str(tmp_path / "t.txt"))
    (tmp_path / "t.txt").write_text("\n\n")
    with pytest.raises(InputError, match="holds no template"):
        read_templates(str(tmp_path / "t.txt"))
    with pytest.raises(InputError, match="'dark_red' and 'Dark red' have the same names"):
        names_of(["dark_red", "Dark red"])
    with pytest.raises(InputError, match=r"class .c. has no name .*nor have 1 others"):
        names_of(["a", "c", "d"], {"a": ["x"]})
    (tmp_path / "n.csv").write_text("a,b\nc\n")
    with pytest.raises(InputError, match="line 2: a class and a name are expected"):
        read_class_names(tmp_path / "n.csv")
    (tmp_path / "n.json").write_text('{"a": []}')
    with pytest.raises(InputError, match="the class 'a' has an empty name"):
        read_class_names(tmp_path / "n.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "option '--classes' is missing"),
        (["--classes", "red"], "At least two classes"),
        (["--classes", "red,Red"], "same names"),
        (["--classes", "none.txt"], "no file of classes 'none.txt'"),
        (["--classes", "red,blue", "--templates", "plain"], "neither a file of templates"),
    ],
)
def test_wrong_classes_on_the_command_line(words, message, model, captions, capsys):
    assert main(["predict", str(model), str(captions), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_prompt_that_the_text_tower_would_cut(captions, tmp_path):
    out = tmp_path / "run"
    nearfar.fit("pairs", captions, out=out, steps=2, batch_size=32, val_every=0, text_encoder="tiny", text_length=8)
    with pytest.raises(InputError, match=r"tokens, of which this text encoder reads \d: the rest would be cut off"):
        nearfar.predict(
            out, captions, classes="red,blue", templates="a very long sentence about the colour of a {} tile"
        )


def test_a_model_without_texts_cannot_name_classes(captions, tmp_path):
    nearfar.fit("simclr", captions.parent, out=tmp_path / "run", steps=2, batch_size=16, val_every=0)
    with pytest.raises(InputError, match="does not predict"):
        nearfar.predict(tmp_path / "run", captions, classes="red,blue")
    with pytest.raises(InputError, match="asks for text"):
        nearfar.evaluate(tmp_path / "run", captions, task="zero-shot", label="colour")


def test_one_class_alone_is_refused(captions, tmp_path):
    lines = [line for line in captions.read_text().splitlines() if line.endswith(("colour", "red"))]
    (captions.parent / "one.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="one class only"):
        task_for(nearfar.data(captions.parent / "one.csv", roles={"target": "colour"}), "zero-shot")
