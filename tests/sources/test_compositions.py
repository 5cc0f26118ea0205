"""Compositions and described classes: columns, files, splits that hold some of them out, and what is refused."""

import json

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.class_attributes import class_attributes, matched, read_class_attributes
from nearfar.sources.compositions import HELD_OUT, compositions, held_out, unseen_parts
from tests.compositions import write_shapes


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def test_columns_are_found_by_their_names_and_pairs_are_held_out(table):
    data = open_data(table)
    assert data.roles["attribute"] == ["attribute"]
    assert data.roles["object"] == "object"
    found = compositions(data)
    assert (len(found.attributes), len(found.objects), len(found)) == (4, 5, 20)
    seen = {name: set(found.of[rows].tolist()) for name, rows in data.splits.items()}
    assert not seen["train"] & (seen["val"] - seen["train"]) & (seen["test"] - seen["train"])
    new = [seen["val"] - seen["train"], seen["test"] - seen["train"]]
    assert [len(one) for one in new] == [round(20 * share) for share in HELD_OUT.values()]
    assert not new[0] & new[1]
    assert not unseen_parts(found, data.splits["train"])
    assert all(seen[name] & seen["train"] for name in ("val", "test"))
    everywhere = np.concatenate(list(data.splits.values()))
    assert len(np.unique(everywhere)) == len(everywhere) == len(data)  # no unit stands twice here: no row is lost
    assert not data.shared()
    assert data.leaks() == 0
    assert data.describe()["compositions"]["seen"] == 12


def test_the_split_follows_its_seed_and_not_the_order_of_rows(table, tmp_path):
    data, other = open_data(table), open_data(table, seed=1)
    assert data.split_hash != other.split_hash
    lines = table.read_text().splitlines()
    again = table.parent / "turned.csv"
    again.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    turned = open_data(again)
    assert [sorted(data.keys[i] for i in rows) and len(rows) for rows in data.splits.values()] == [
        len(rows) for rows in turned.splits.values()
    ]
    pairs = [{compositions(d).names[k] for k in set(compositions(d).of[d.splits["train"]].tolist())}
             for d in (data, turned)]  # fmt: skip
    assert pairs[0] == pairs[1]


def test_a_drawing_under_several_operations_stands_in_one_part():
    data = open_data("digit-operations")
    of = np.full(len(data), -1)
    for k, rows in enumerate(data.splits.values()):
        of[rows] = k
    drawing = np.array([int(v) for v in data.values("unit")])
    for one in np.unique(drawing)[:100]:
        assert len(set(of[drawing == one].tolist()) - {-1}) == 1
    found = compositions(data)
    assert [
        int((found.within(data.splits[n]) & ~found.within(data.splits["train"])).sum()) for n in ("val", "test")
    ] == [15, 15]
    assert found.within(data.splits["train"]).sum() == 50


def test_a_column_of_splits_decides(table, tmp_path):
    lines = table.read_text().splitlines()
    rows = [
        line + "," + ("test" if i % 3 == 0 else "val" if i % 3 == 1 else "train") for i, line in enumerate(lines[1:])
    ]
    other = table.parent / "split.csv"
    other.write_text("\n".join([lines[0] + ",split", *rows]) + "\n")
    data = open_data(other)
    assert data.splits["test"].tolist() == [i for i in range(len(rows)) if i % 3 == 0]


def test_several_attributes_make_one_composition(tmp_path):
    table = write_shapes(tmp_path, second=True)
    data = open_data(table, roles={"attribute": ["attribute", "size"]})
    found = compositions(data)
    assert set(found.orders.tolist()) == {1, 2}
    assert (("big", "red"), "disc") in found.names
    assert (("red",), "disc") in found.names
    assert len(found.every_pair()) == len(found.attributes) * 5 + (found.orders == 2).sum()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("red,disc", "Red,disc", 1), "one name"),
        (lambda t: t.replace("green,disc", "...,disc", 1), "has no words"),
        (lambda t: t.replace("object", "thing"), "needs the object"),
    ],
)
def test_what_is_refused(table, change, words):
    other = table.parent / "bad.csv"
    other.write_text(change(table.read_text()))
    with pytest.raises(InputError, match=words):
        open_data(other, roles={"attribute": ["attribute"]})


def test_one_attribute_alone_composes_nothing(table):
    other = table.parent / "one.csv"
    lines = table.read_text().splitlines()
    other.write_text("\n".join([lines[0], *(line for line in lines if ",red," in line)]))
    with pytest.raises(InputError, match="names one attribute"):
        open_data(other)


def test_nothing_can_be_held_out_of_a_diagonal():
    pairs = np.array([[i, i] for i in range(5)])
    with pytest.raises(InputError, match="held out"):
        held_out(pairs, 0, [str(i) for i in range(5)])


def test_files_of_class_attributes(tmp_path):
    table, other = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text("class,stripes,hooves\nzebra,1,1\ntiger,1,0\nhorse,0,1\n")
    other.write_text(json.dumps({"zebra": ["stripes", "hooves"], "tiger": {"stripes": 1}, "horse": ["hooves"]}))
    assert read_class_attributes(table) == read_class_attributes(other)
    found = matched(["horse", "zebra"], *read_class_attributes(table))
    assert found.matrix.tolist() == [[0, 1], [1, 1]]
    assert found.names == ["stripes", "hooves"]
    bad = {
        "class,stripes\nzebra,1\nzebra,0\n": "stands twice",
        "class,stripes\nzebra,much\n": "not a finite number",
        "class,stripes\nzebra,1,2\n": "3 cells",
        "class,Stripes,stripes\nzebra,1,2\n": "stands twice",
        "zebra": "no table",
    }
    for text, words in bad.items():
        table.write_text(text)
        with pytest.raises(InputError, match=words):
            read_class_attributes(table)
    with pytest.raises(InputError, match=r"'zebu' has no attributes.*zebra"):
        matched(["zebu"], ["stripes"], {"zebra": [1.0]})
    with pytest.raises(InputError, match="nothing describes it"):
        matched(["zebra"], ["stripes"], {"zebra": [0.0]})
    with pytest.raises(InputError, match="no file"):
        read_class_attributes(tmp_path / "none.csv")


def test_classes_are_held_out_by_a_file_of_attributes(table):
    facts = table.parent / "facts.json"
    facts.write_text(json.dumps({"disc": ["round"], "ring": ["round", "hollow"], "box": ["corners"],
                                 "bar": ["long", "corners"], "cross": ["long"]}))  # fmt: skip
    roles = {"target": "object", "attribute": None, "object": None}
    data = open_data(table, roles=roles, class_attributes=facts)
    assert class_attributes(data).matrix.shape == (5, 4)
    classes = {name: set(np.asarray(data.targets)[rows].tolist()) for name, rows in data.splits.items()}
    assert len(classes["train"]) == 3
    assert classes["val"] == classes["test"] == set(range(5))
    assert open_data(table, roles=roles).hash != data.hash
    facts.write_text(json.dumps({"disc": ["round"]}))
    with pytest.raises(InputError, match="no attributes"):
        open_data(table, roles=roles, class_attributes=facts)
    with pytest.raises(InputError, match="describes classes"):
        open_data(table, roles={"attribute": None, "object": None, "label": None}, class_attributes=facts)
