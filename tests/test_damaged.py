"""Each file of a run, a model, an index and a comparison, damaged in several ways, under every command that reads it:
the command works, or says which file it is (exit code 2). Never a traceback."""

import json
import shutil

import pytest

from nearfar.cli import main

KINDS = {dict: "", list: {"a": 1}, str: 7, int: "many", float: "much", bool: [], type(None): 3}


def truncated(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def binary(content):
    return bytes(range(256)) * 4


def another_type(content):
    return b'["a list"]\n'


def without_keys(content):
    return b'{"something": "else"}\n'


def wrong_values(content):
    """Every value of another type, where the file is JSON."""
    try:
        lines = [json.loads(line) for line in content.splitlines()]
    except ValueError:
        try:
            lines = [json.loads(content)]
        except ValueError:
            return bytes(content[:100]) + bytes(byte ^ 16 for byte in content[100:])
    swapped = [{k: KINDS[type(v)] for k, v in line.items()} for line in lines]
    return "\n".join(json.dumps(line) for line in swapped).encode() + b"\n"


def inside(content, change):
    """The values within the objects and lists of a JSON file changed, without its checksum."""
    try:
        held = json.loads(content)
    except ValueError:
        return content[:-9] + content[-8:]
    held.pop("checksum", None)
    return json.dumps({k: change(v) for k, v in held.items()}).encode()


def wrong_inside(content):
    def swapped(value):
        if isinstance(value, dict):
            return {k: KINDS[type(v)] for k, v in value.items()}
        return [KINDS[type(v)] for v in value] if isinstance(value, list) else value

    return inside(content, swapped)


def missing_inside(content):
    def cut(value):
        if isinstance(value, dict):
            return dict(list(value.items())[1:])
        return [cut(v) for v in value] if isinstance(value, list) else value

    return inside(content, cut)


def hollow(content):
    return inside(content, lambda value: type(value)() if isinstance(value, (dict, list)) else value)


DAMAGES = (truncated, empty, binary, another_type, without_keys, wrong_values, wrong_inside, missing_inside, hollow)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with data, a comparison of one cell (which is a run), its best model, an index, and .npy vectors."""
    place = tmp_path_factory.mktemp("whole")
    rows = [f"question about thing {i},thing {i} is answered" for i in range(40)]
    (place / "pairs.csv").write_text("text,text_b\n" + "\n".join(rows) + "\n")
    common = ["--steps", "2", "--batch-size", "8", "--val-every", "0"]
    data = str(place / "pairs.csv")
    done = ["compare", data, "--methods", "pairs", "--seeds", "1", "--out", str(place / "c"), *common]
    assert main(done) == 0
    for out in ("index", "v.npy"):
        assert main(["embed", str(place / "c" / "best"), data, "--out", str(place / out)]) == 0
    return place


RUN, MODEL = "c/cells/pairs-s0", "c/best"
COMPARE = ["compare", "pairs.csv", "--methods", "pairs", "--seeds", "1", "--steps", "2", "--batch-size", "8",
           "--val-every", "0", "--out", "c"]  # fmt: skip
RESUME = ["fit", "--resume", "--out", RUN]
REPORT = ["report", RUN, "--out", "x.html"]
EMBED = ["embed", MODEL, "pairs.csv", "--out", "x.npy"]
SEARCH = ["search", "index", "question about thing 3", "--k", "2", "--model", MODEL]
CASES = [
    (f"{RUN}/config.json", [RESUME, REPORT]),
    (f"{RUN}/curve.jsonl", [RESUME, REPORT, COMPARE]),
    (f"{RUN}/scores.json", [REPORT, COMPARE]),
    (f"{RUN}/checkpoints/last.ckpt", [RESUME]),
    ("c/plan.json", [COMPARE]),
    ("c/references.json", [COMPARE]),
    ("c/results.json", [["report", "c", "--out", "x.html"]]),
    (f"{MODEL}/config.json", [EMBED, ["evaluate", MODEL, "pairs.csv"]]),
    (f"{MODEL}/verify.json", [EMBED, SEARCH]),
    (f"{MODEL}/model.safetensors", [EMBED]),
    (f"{MODEL}/text/tokenizer.json", [EMBED]),
    ("index/index.json", [SEARCH, ["embed", MODEL, "pairs.csv", "--out", "index", "--append"]]),
    ("v.keys.json", [["embed", MODEL, "pairs.csv", "--out", "v.npy", "--append"]]),
    ("v.npy", [["embed", MODEL, "pairs.csv", "--out", "v.npy", "--append"]]),
]


def damage(whole, path, how):
    held = (whole / path).read_bytes()
    (whole / path).write_bytes(how(held))
    return held


@pytest.mark.parametrize("how", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("path", "commands"), CASES, ids=[path for path, _ in CASES])
def test_a_damaged_file_is_named(path, commands, how, whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    damage(tmp_path / "w", path, how)
    before = set((tmp_path / "w").rglob("*"))
    for words in commands:
        code = main(list(words))
        said = capsys.readouterr()
        if code == 0:
            before = set((tmp_path / "w").rglob("*"))
            continue
        assert code == 2, said.err
        differs = "holds a comparison with other settings" in said.err  # as if other ones were asked for
        assert (path if not differs else "'c'") in said.err
        assert before == set((tmp_path / "w").rglob("*")), "a refusal leaves nothing behind"


def test_every_file_of_the_index_and_the_model_is_checked(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    held = [p.relative_to(tmp_path) for p in (tmp_path / "index").rglob("*") if p.is_file() and p.name != "index.json"]
    filtered, hybrid = [*SEARCH, "--where", "key != ''"], [*SEARCH, "--hybrid"]
    for path in held:
        words = {"items.lance": filtered, "bm25": hybrid}.get(path.parts[1], SEARCH)  # the one that reads the file
        before = damage(tmp_path, path, lambda content: bytes([content[0] ^ 1]) + content[1:])
        assert main(list(words)) == 2
        assert str(path) in capsys.readouterr().err
        (tmp_path / path).write_bytes(before)
    assert {path.parts[1] for path in held} == {"items.lance", "bm25", "vectors.npy", "rows.arrow"}
    for words in (SEARCH, filtered, hybrid):
        assert main(list(words)) == 0


@pytest.mark.parametrize("name", ["pytorch_model.bin", "text/added_tokens.json", "text/model.py"])
def test_a_file_that_is_not_listed_is_refused(name, whole, tmp_path, capsys):
    shutil.copytree(whole / "c" / "best", tmp_path / "m")
    (tmp_path / "m" / name).write_text("{}")
    words = ["embed", str(tmp_path / "m"), str(whole / "pairs.csv"), "--out", str(tmp_path / "x.npy")]
    assert main(words) == 2
    assert name in capsys.readouterr().err
    (tmp_path / "m" / name).unlink()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    assert main(words) == 0


@pytest.mark.parametrize("left_out", ["model.safetensors", "config.json", "text/tokenizer.json"])
def test_the_list_of_files_is_complete_and_inside(left_out, whole, tmp_path, capsys):
    shutil.copytree(whole / "c" / "best", tmp_path / "m")
    proof = tmp_path / "m" / "verify.json"
    told = json.loads(proof.read_text())
    listed = told["files"]
    words = ["embed", str(tmp_path / "m"), str(whole / "pairs.csv"), "--out", str(tmp_path / "x.npy")]
    proof.write_text(json.dumps(told | {"files": {k: v for k, v in listed.items() if k != left_out}}))
    assert main(words) == 2
    assert left_out in capsys.readouterr().err
    proof.write_text(json.dumps(told | {"files": listed | {"../c/plan.json": "0"}}))
    assert main(words) == 2
    assert "does not lie in the folder" in capsys.readouterr().err
