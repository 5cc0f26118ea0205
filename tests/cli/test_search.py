"""What `nearfar search` prints: whole lines for other programs, whole words on a terminal, an answer for each query."""

import io
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

import nearfar
from nearfar.cli import hits, main
from nearfar.cli.search import queries_of
from tests.conftest import SENTENCES


def searched(capsys, *words):
    code = main(["search", *map(str, words)])
    return code, capsys.readouterr()


def test_lines_are_whole_where_nobody_watches(text_index, capsys):
    code, told = searched(capsys, text_index.path, "key:s7", "--k", "5")
    assert code == 0
    expected = nearfar.search(text_index.path, "key:s7", k=5)
    lines = told.out.splitlines()
    assert len(lines) == 5
    for number, (line, hit) in enumerate(zip(lines, expected, strict=True), 1):
        assert line == f"{number:>3}  {hit['score']:.3f}  {hit['key']}  text {hit['text']}  weight {hit['weight']}"
    code, told = searched(capsys, text_index.path, "key:s7", "--k", "5", "--json")
    assert json.loads(told.out) == expected
    code, told = searched(capsys, text_index.path, "key:s7", "--where", "weight < 0")
    assert (code, told.out) == (0, "nothing found\n")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_whole_words_and_all_numbers(width):
    long = " ".join(f"word{n}and{'x' * (n % 9)}" for n in range(90))
    found = [{"key": "some/where/a-file.png", "text": "short", "year": 1998, "weight": 0.12345678901, "score": -0.5},
             {"key": "日本", "text": long, "note": "two\nlines", "none": None, "score": 1.0, "trained_on": True},
             {"key": "k", "text": "y" * 500, "score": 0.25}]  # fmt: skip
    out = io.StringIO()
    Console(width=width, file=out, force_terminal=True, color_system=None).print(hits.grid(found))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    whole = " ".join(out.getvalue().split())
    assert "1  -0.500  some/where/a-file.png" in lines[0].strip()
    assert "text short year 1998 weight 0.12345678901" in whole
    assert "trained on" in whole
    assert "note two lines" in whole
    shown = re.findall(r"\bword\d+and\w*", whole)
    assert shown == long.split()[: len(shown)]
    assert 10 < len(shown) < 90
    assert "…" in whole
    assert sum(line.count("y") for line in lines) > 200


def test_line_after_line(text_index, capsys, monkeypatch):
    asked = ["red boats", "", "key:nope", "  key:s7  ", "green towers"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(asked)))
    code, told = searched(capsys, text_index.path, "--interactive", "--k", "3", "--json")
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert code == 2, "one of them was wrong"
    assert [one["query"] for one in answers] == ["red boats", "key:nope", "key:s7", "green towers"]
    assert "no item 'nope'" in answers[1]["error"]
    for one in answers:
        if "hits" in one:
            assert one["hits"] == nearfar.search(text_index.path, one["query"], k=3)
    monkeypatch.setattr("sys.stdin", io.StringIO("key:nope\nkey:s7\n"))
    code, told = searched(capsys, text_index.path, "--interactive", "--k", "3")
    assert code == 2
    assert "nearfar: key:nope: The index has no item 'nope'." in told.err
    lines = told.out.splitlines()
    assert lines[:2] == ["key:nope", ""]
    assert lines[2] == "key:s7"
    assert [line.split()[2] for line in lines[3:6]] == [h["key"] for h in answers[2]["hits"]]


@pytest.mark.parametrize("form", ["txt", "csv", "tsv", "jsonl"])
def test_a_file_of_queries(form, text_index, tmp_path, capsys):
    asked, path = ["red, boats", "key:s7", "key:nope", SENTENCES[3]], tmp_path / f"q.{form}"
    rows = {
        "txt": "\n\n".join(asked),
        "csv": "id,query\n" + "".join(f'{n},"{q}"\n' for n, q in enumerate(asked)),
        "tsv": "words\n" + "".join(f"{q}\n" for q in asked),
        "jsonl": "".join(json.dumps({"a": "x", "mine": q}) + "\n" for q in asked),
    }
    path.write_text(rows[form] + "\n")
    words = ["--column", "mine"] if form == "jsonl" else []
    code, told = searched(capsys, text_index.path, "--queries", path, "--k", "2", "--json", *words)
    found = json.loads(told.out)
    assert code == 2
    assert [one["query"] for one in found] == asked
    assert "no item 'nope'" in found[2]["error"]
    for n in (0, 1, 3):
        assert [h["key"] for h in found[n]["hits"]] == [
            h["key"] for h in nearfar.search(text_index.path, asked[n], k=2)
        ]
    if form == "txt":
        path.write_bytes("\ufeffred\u2028boats\x0b\r\n\r\nkey:s7".encode())
        assert queries_of(path, None) == ["red\u2028boats", "key:s7"], "a line ends where a file's lines end"
        path.write_text(rows[form])
        code, told = searched(capsys, text_index.path, "--queries", path, "--k", "2")
        assert [line for line in told.out.splitlines() if line in asked] == asked
        assert "nearfar: key:nope: The index has no item" in told.err


def test_words_and_vectors(text_index, capsys):
    code, told = searched(capsys, text_index.path, "17 tower", "--hybrid", "--k", "4")
    assert code == 0
    expected = nearfar.search(text_index.path, "17 tower", k=4, hybrid=True)
    for line, hit in zip(told.out.splitlines(), expected, strict=True):
        assert f"  {hit['score']:.4f}  {hit['key']}  " in line
        ranks = [f"{name} {hit[name]}" for name in ("vector_rank", "text_rank") if hit[name] is not None]
        assert line.endswith("  ".join(ranks))


LOADED = """
import sys
from nearfar.cli import main
for query in ("key:s7", "red boats"):
    assert main(["search", {index!r}, query]) == 0
    print("loaded", *(name for name in {heavy!r} if name in sys.modules))
"""


def test_a_search_loads_what_it_needs(text_index):
    """Nothing but arrays for an item of the index; torch and the encoder for a text."""
    heavy = ("torch", "lancedb", "lightning", "transformers", "torchvision", "scipy", "sklearn", "datasets", "pandas")
    code = LOADED.format(index=str(text_index.path), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("loaded")] == ["loaded", "loaded torch"]
