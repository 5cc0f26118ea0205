"""A short run of a method on some emoji, as a user would type it."""

import json

from nearfar.cli import main


def curve_of(method, out, capsys, *words):
    """Trains, and returns the lines of the curve; the test score of the run lies in 0..1."""
    fixed = ["emoji", "--limit", "300", "--steps", "12", "--batch-size", "16", "--val-every", "0", "--json"]
    assert main(["fit", method, *fixed, "--out", str(out), *words]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["scores"]["test"]["primary"] <= 1
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
