"""Texts of other people's files on a terminal: nothing in them moves the cursor, changes colours or forges a line."""

import io
import json

import pytest

from nearfar import terminal
from nearfar.cli import main

EVIL = "\x1b[2J\x1b]0;owned\x07cat\nnearfar: done\r\x9b31m\u202egnp\u2066 \ud83d"


@pytest.mark.parametrize("character", [*map(chr, range(32)), "\x7f", "\x9b", "\u2028", "\u202e", "\u2069", "\u200e",
                                       "\u200f", "\u061c", "\ud83d"])  # fmt: skip
def test_signs_stand_for_what_cannot_be_seen(character):
    shown = terminal.visible(f"a{character}b")
    assert character not in shown
    assert shown[0] == "a"
    assert shown[-1] == "b"
    assert len(shown) > 2


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 猫 и кот", "عربي עברית", "a\u0301 👩‍👩‍👧"])
def test_ordinary_texts_stay(text):
    assert terminal.visible(text) == text


def test_kept_characters_and_nested_values():
    assert terminal.visible("a\nb\tc", "\n") == "a\nb␉c"
    assert terminal.visible_all({"a\n": ["b\x1b", (1, "c\r")]}) == {"a␊": ["b␛", (1, "c␍")]}


def test_console_and_lines():
    stream = io.StringIO()
    console = terminal.console(file=stream, width=200, force_terminal=True)
    console.print(f"[bold]{'x'}[/] " + EVIL.replace("[", r"\["))
    assert "\x1b[1m" in stream.getvalue()  # our own bold
    for sequence in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e"):
        assert sequence not in stream.getvalue()
    stream = io.StringIO()
    terminal.say(EVIL, stream)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().encode("utf-8")


def test_no_command_passes_them_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": f"{EVIL[:-1]} {i} one two", "text_b": f"b {EVIL[:-1]} {i}", "label": f"l\x1b[{i % 2}m"}
        for i in range(40)
    ]
    (tmp_path / "evil\x1b[31m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = "evil\x1b[31m.jsonl"
    quick = ["--steps", "2", "--batch-size", "8", "--val-every", "0"]
    words = [
        ["data", data],
        ["fit", "pairs", data, *quick, "--out", "r"],
        ["embed", "r/model", data, "--out", "i"],
        ["search", "i", "cat"],
        ["fit", "pairs", data, "--label", "x\x1b[1m"],
        ["evaluate", "r/model", data],
    ]
    for command in words:
        main(command)
        shown = capsys.readouterr()
        for sequence in ("\x1b[2J", "\x1b[31m", "\x1b]0", "\x07", "\x9b", "\u202e", "\r"):
            assert sequence not in shown.out + shown.err, command
        assert "\nnearfar: done" not in shown.out + shown.err, command
