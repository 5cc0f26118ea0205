"""Dialogues of JSON files: the forms that are read, their trees, and what is told of those that cannot be."""

import json

import pytest

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.showing import show
from nearfar.sources.trees import paths_of, tree_elements
from nearfar.sources.utterances import utterances

TURNS = [{"role": "user", "text": "a room\nin the north", "tree": {"Hotel": {"find": {"area": "North"}}}},
         {"role": "assistant", "text": "the Alpha is free"},
         {"role": "customer", "text": "for two nights"}]  # fmt: skip
WHOLE = [["hotel", "book", "stay", "2"], ["hotel", "book", "people", "1"]]


def write(path, content):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, content)))
    else:
        path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("name", "wrap"), [("a.jsonl", lambda d: [d]), ("a.json", lambda d: [d]),
                                            ("a.json", lambda d: d), ("a.json", lambda d: {"x": d})])  # fmt: skip
def test_each_turn_of_the_user_is_a_row_with_what_was_said_before(tmp_path, name, wrap):
    data = open_data(write(tmp_path / name, wrap({"turns": TURNS, "tree": WHOLE})))
    assert data.kind == "dialogues"
    assert data.texts("text") == [
        "user: a room in the north",
        "user: a room in the north\nsystem: the Alpha is free\nuser: for two nights",
    ]
    assert data.trees == [(("hotel", "find", "area", "north"),), (("hotel", "book", "stay", "2"),
                                                                  ("hotel", "book", "people", "1"))]  # fmt: skip
    assert len(set(data.units.tolist())) == 1
    assert [key.rpartition(":")[2] for key in data.keys] == ["0", "2"]


def test_the_summary_counts_trees(tmp_path, capsys):
    data = open_data(write(tmp_path / "a.json", [{"turns": TURNS, "tree": WHOLE}]))
    assert data.describe()["trees"] == {"rows": {"train": 2, "val": 0, "test": 0},
                                        "names": {"domain": 1, "intent": 2, "slot": 3, "value": 3}}  # fmt: skip
    show(data)
    assert "rows with one train 2, val 0, test 0; 1 domains, 2 intents" in " ".join(capsys.readouterr().out.split())


def test_multiwoz_logs_alternate_and_their_states_follow(tmp_path):
    log = [
        {"text": "a cheap place", "metadata": {}},
        {
            "text": "many",
            "metadata": {
                "restaurant": {
                    "semi": {"pricerange": "cheap", "area": "not mentioned"},
                    "book": {"booked": [], "day": ""},
                }
            },
        },
        {"text": "on monday", "metadata": {}},
        {
            "text": "done",
            "metadata": {
                "restaurant": {"semi": {"pricerange": ["cheap"]}, "book": {"booked": [{"name": "x"}], "day": "monday"}}
            },
        },
    ]
    data = open_data(write(tmp_path / "data.json", {"PMUL1.json": {"goal": {"taxi": {}}, "log": log}}))
    assert data.keys == ["PMUL1.json:0", "PMUL1.json:2"]
    assert data.trees == [
        (("restaurant", "", "pricerange", "cheap"),),
        (("restaurant", "", "pricerange", "cheap"), ("restaurant", "", "day", "monday")),
    ]
    log[0]["dialog_act"] = {
        "Restaurant-Inform": [["price", "cheap"], ["none", "none"], ["area", "?"]],
        "general-bye": [],
    }
    data = open_data(write(tmp_path / "acts.json", {"PMUL1.json": {"log": log}}))
    assert set(data.trees[0]) == {("restaurant", "inform", "price", "cheap"), ("restaurant", "inform", "", ""),
                                  ("restaurant", "inform", "area", ""), ("general", "bye", "", "")}  # fmt: skip


def test_frames_give_the_state_of_the_turn(tmp_path):
    frames = [
        {"service": "hotel", "state": {"active_intent": "find_hotel", "slot_values": {"hotel-area": ["north"]}}},
        {"service": "taxi", "state": {"active_intent": "NONE", "slot_values": {}}},
        {"service": "train", "state": {"active_intent": "find_train", "slot_values": {}}},
    ]
    turns = [{"speaker": "USER", "utterance": "north", "frames": frames}, {"speaker": "SYSTEM", "utterance": "yes",
                                                                           "frames": []}]  # fmt: skip
    data = open_data(write(tmp_path / "dialogues_001.json", [{"dialogue_id": "SNG1", "turns": turns}]))
    assert data.keys == ["SNG1:0"]
    assert data.trees == [(("hotel", "find_hotel", "hotel-area", "north"), ("train", "find_train", "", ""))]


def test_a_folder_of_files_with_splits(tmp_path):
    for name in ("train", "dev", "test"):
        (tmp_path / name).mkdir()
        for k in range(2):
            write(tmp_path / name / f"dialogues_00{k}.json", [{"dialogue_id": f"{name}{k}", "turns": TURNS}])
    data = open_data(tmp_path)
    assert {k: len(rows) for k, rows in data.splits.items()} == {"train": 4, "val": 4, "test": 4}
    assert sum(map(bool, data.trees)) == 6


def test_a_context_has_sixteen_utterances(tmp_path):
    turns = [{"role": ("user", "bot")[k % 2], "text": f"words {k}"} for k in range(21)]
    data = open_data(write(tmp_path / "long.json", [{"turns": turns}]))
    last = data.texts("text")[-1].split("\n")
    assert (len(last), last[0], last[-1]) == (16, "system: words 5", "user: words 20")
    assert "tree" not in data.roles
    assert any("no turn of a user has an annotation" in note for note in data.notes)


BAD = {
    "no user": ([{"role": "system", "text": "hello"}], "has no turn of a user"),
    "no turns": ([], "no turn of a user"),
    "empty": ([{"role": "user", "text": " "}], "utterance of turn 0 is empty"),
    "no text": ([{"role": "user"}], "utterance of turn 0 is empty"),
    "role": ([{"role": "user", "text": "hi"}, {"role": "narrator", "text": "night fell"}], "'narrator' of turn 1"),
    "no role": ([{"text": "hi"}], "turn 0 says no role"),
    "levels": ([{"role": "user", "text": "hi", "tree": {"a": {"b": {"c": {"d": "e"}}}}}], "more levels than"),
    "path": ([{"role": "user", "text": "hi", "tree": [["a", "b", "c", "d", "e"]]}], "one to four names"),
    "names": ([{"role": "user", "text": "hi", "tree": [["a", {"b": "c"}]]}], "where a name should be"),
    "kind": ([{"role": "user", "text": "hi", "tree": "hotel"}], "not JSON"),
    "value": ([{"role": "user", "text": "hi", "tree": [["a", "b", "", "d"]]}], "'d' stands without its slot"),
    "turn": ([{"role": "user", "text": "hi"}, 3], "turn 1 is int"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_dialogue_that_is_none_is_named_or_counted(case, tmp_path):
    turns, message = BAD[case]
    path = write(tmp_path / "d.jsonl", [{"id": "good", "turns": TURNS}, {"id": "bad", "turns": turns}])
    with pytest.raises(InputError, match=rf"d\.jsonl, dialogue 'bad': .*{message}") as caught:
        open_data(path)
    assert "--unreadable skip" in str(caught.value)
    data = open_data(path, unreadable="skip")
    assert len(data) == 2
    assert [message in str(problem) for problem in data.problems] == [True]
    alone = write(tmp_path / "alone.jsonl", [{"id": "bad", "turns": turns or [{"role": "user"}]}])
    with pytest.raises(InputError, match="No dialogue of"):
        open_data(alone, unreadable="skip")


def test_other_json_is_a_table_as_before(tmp_path):
    rows = [{"text": f"a text number {k}", "log": "none"} for k in range(4)]
    assert open_data(write(tmp_path / "a.jsonl", rows)).kind == "jsonl table"
    rows = [{"text": f"the turns are {k}", "turns": [{"a": 1}] if k else 3} for k in range(4)]
    assert open_data(write(tmp_path / "b.jsonl", rows)).kind == "jsonl table"
    rows = [{"text": f"the turns are {k}", "turns": [{"a": 1}]} for k in range(4)]
    assert open_data(write(tmp_path / "c.jsonl", rows)).kind == "jsonl table"


# -- trees in the cells of a table


def table(path, trees, name="tree"):
    path.write_text("\n".join(json.dumps({"text": f"some words {k}", name: tree}) for k, tree in enumerate(trees)))
    return path


def test_a_column_of_trees_is_found_and_checked(tmp_path):
    trees = [{"a": {"b": {"c": ["d", "e"]}}}, None, [["a", "b"]], "", {"a": {}}, {"a": ["b", "x"]}]
    data = open_data(table(tmp_path / "t.jsonl", trees))
    assert data.roles["tree"] == "tree"
    assert data.trees == [(("a", "b", "c", "d"), ("a", "b", "c", "e")), (), (("a", "b", "", ""),), (),
                          (("a", "", "", ""),), (("a", "b", "", ""), ("a", "x", "", ""))]  # fmt: skip
    wrong = table(tmp_path / "w.jsonl", [*trees, [[1, 2, 3, 4, 5]]], "wood")
    with pytest.raises(InputError, match=r"w\.jsonl, line 7.*'wood'.*one to four names"):
        open_data(wrong, roles={"tree": "wood"})
    data = open_data(wrong, roles={"tree": "wood"}, unreadable="skip")
    assert (len(data), len(data.problems)) == (6, 1)


def test_a_column_of_other_trees_keeps_its_meaning(tmp_path):
    data = open_data(table(tmp_path / "forest.jsonl", ["oak", "beech", "fir"]))
    assert "tree" not in data.roles
    assert data.trees is None


@pytest.mark.parametrize("tree", [3, "[1]", [[]], "{", [["a", ["b"]]]])
def test_what_is_no_tree_is_refused(tree):
    with pytest.raises(ValueError, match=r"tree|path"):
        paths_of(tree)


def test_equal_names_are_one_element():
    found = tree_elements(paths_of([["a", "b", "c", "d"], ["A ", "b", "c", "d"], ["a", "b", "c", "e"]]))
    assert [len(one) for one in found] == [1, 1, 1, 2, 1, 1, 2, 1, 2, 2]


def test_a_text_without_roles_is_one_utterance():
    assert utterances("User: hi\n\nSYSTEM:  yes: no ") == [("user", "hi"), ("system", "yes: no ")]
    assert utterances("customer: hi\nthere\nAgent: a list:\n- one") == [
        ("user", "hi there"),
        ("system", "a list: - one"),
    ]
    for text in ("hello", "hi\nuser: there", "", "a: b"):
        assert utterances(text) == [("user", text)]


def test_what_a_table_fills_with_null_is_no_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    trees = [{"hotel": {"book": {"area": "north"}}}, {"taxi": {"ask": {"day": "friday"}}}] * 15
    table = pa.table({"text": [f"a note of number {k}" for k in range(30)], "tree": pa.array(trees)})
    pq.write_table(table, tmp_path / "a.parquet")
    data = open_data(tmp_path / "a.parquet")
    assert set(data.trees) == {(("hotel", "book", "area", "north"),), (("taxi", "ask", "day", "friday"),)}


@pytest.mark.parametrize("empty", [{}, "{}", "[]", [], None, "", "nan", {"taxi": None}])
def test_a_tree_may_be_empty(empty):
    assert paths_of(empty) == ()


def test_a_path_may_name_its_levels():
    named = {"domain": "Hotel", "intent": "book", "slot": "area", "value": "north"}
    assert paths_of(named) == paths_of([named]) == (("hotel", "book", "area", "north"),)
    assert paths_of({"domain": "hotel"}) == (("hotel", "", "", ""),)
    assert paths_of({"a": {"b": {"c": {}}}}) == (("a", "b", "c", ""),)


@pytest.mark.parametrize("turns", [None, "missing"])
def test_one_dialogue_without_turns_is_named_or_counted(tmp_path, turns):
    bad = {"dialogue_id": "bad"} | ({} if turns == "missing" else {"turns": turns})
    path = write(
        tmp_path / "a.jsonl", [{"dialogue_id": "a", "turns": TURNS}, bad, {"dialogue_id": "b", "turns": TURNS}]
    )
    with pytest.raises(InputError, match="dialogue 'bad': it has no list of turns"):
        open_data(path)
    data = open_data(path, unreadable="skip")
    assert len(set(data.units.tolist())) == 2
    assert len(data.problems) == 1


def test_names_of_dialogues_are_apart(tmp_path):
    six = [{"dialogue_id": k, "turns": TURNS} for k in range(6)]
    data = open_data(write(tmp_path / "a.json", six))
    assert len(set(data.units.tolist())) == 6
    assert data.keys[0].startswith("0:")
    assert open_data(write(tmp_path / "b.json", [{"turns": TURNS}])).keys[0].startswith("#1:")
    with pytest.raises(InputError, match="an earlier dialogue has this name"):
        open_data(write(tmp_path / "c.json", [*six, six[0]]))


def test_further_wrappings(tmp_path):
    one = {"dialogue_id": "a", "turns": TURNS}
    assert len(open_data(write(tmp_path / "a.json", {"dialogues": [one]}))) == 2
    (tmp_path / "b.json").write_text(json.dumps(one) + "\n" + json.dumps(one | {"dialogue_id": "b"}))
    assert len(open_data(tmp_path / "b.json")) == 4


@pytest.mark.parametrize(("turn", "message"), [
    ({"dialog_act": {"Hotel-Inform": 3}}, "the slots of the act 'Hotel-Inform' are int"),
    ({"frames": ["x"]}, "a frame is str"),
    ({"frames": [{"state": ["x"]}]}, "the state of a frame is list"),
    ({"frames": [{"state": {"slot_values": [1]}}]}, "the slots of a frame is list"),
    ({"text": 7}, "the utterance of turn 0 is int"),
])  # fmt: skip
def test_odd_annotations_are_named_or_counted(tmp_path, turn, message):
    odd = {"dialogue_id": "odd", "turns": [{"role": "user", "text": "hello"} | turn]}
    path = write(tmp_path / "a.jsonl", [odd, {"dialogue_id": "fine", "turns": TURNS}])
    with pytest.raises(InputError, match=f"dialogue 'odd': {message}"):
        open_data(path)
    assert len(open_data(path, unreadable="skip").problems) == 1


def test_acts_without_slots_leave_the_state_to_speak_and_slots_may_be_an_object(tmp_path):
    state = {"hotel": {"semi": {"area": "north"}, "book": {"booked": []}}}
    log = [{"text": "a room", "dialog_act": {}}, {"text": "fine", "metadata": state},
           {"text": "thanks", "dialog_act": {"Hotel-Inform": {"area": "north"}}}]  # fmt: skip
    data = open_data(write(tmp_path / "a.json", {"x": {"log": log}}))
    assert data.trees == [(("hotel", "", "area", "north"),), (("hotel", "inform", "area", "north"),)]


def test_a_column_of_notes_on_labels_is_no_tree(tmp_path):
    rows = [f'text number {k},{"ab"[k % 2]},"{{""annotator"": 1}}"' for k in range(30)]
    (tmp_path / "a.csv").write_text("text,label,annotation\n" + "\n".join(rows) + "\n")
    assert "tree" not in open_data(tmp_path / "a.csv").roles


def test_a_wrong_cell_of_a_tree_is_told_with_its_line(tmp_path):
    rows = [f'text number {k},"[[""a"", ""b{k % 3}""]]"' for k in range(39)] + ['text number 39,"{oops"']
    (tmp_path / "a.csv").write_text("text,tree\n" + "\n".join(rows) + "\n")
    with pytest.raises(InputError, match="line 41"):
        open_data(tmp_path / "a.csv").trees  # noqa: B018
