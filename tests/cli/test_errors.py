"""What a user sees on wrong input: a message that says what and how to mend it, an exit code, nothing harmed."""

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from nearfar.cli import main
from nearfar.losses.parts import parts


def images(folder, n=12, size=24):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def said(capsys, *words):
    code = main([str(w) for w in words])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], "Did you mean 'fit'?"),
        (["fit", "simclrr", "emoji"], "Did you mean 'simclr'?"),
        (["methods", "sawv"], "Did you mean 'swav'?"),
        (["fit", "simclr", "emoji", "--temprature", "0.2"], "Did you mean '--temperature'?"),
        (["fit", "simclr", "emoji", "--loss", "dlc"], "Did you mean 'dcl'?"),
        (["fit", "simclr", "emoji", "--views", "multicrop"], "Did you mean 'multi-crop'?"),
        (["fit", "simclr", "emoji", "--temperature", "warm"], "must be a finite number. Got warm instead"),
        (["fit", "simclr", "emoji", "--temperature", "-1"], "must be a number in (0, inf). Got -1"),
        (["fit", "simclr", "emoji", "--steps", "0"], "'steps' must be a whole number of at least 1 or 'auto'. Got 0"),
        (["fit", "simclr", "no/such/folder"], "no/such/folder"),
        (["fit", "simclr"], "the data are missing"),
        (["fit", "simclr", "emojis"], "emoji"),
        (["fit", "simclr", "emoji", "--config", "none.yaml"], "There is no config file"),
        (["fit", "--resume", "--out", "nowhere"], "holds no run to resume"),
        (
            ["fit", "contriever", "emoji", "--views", "two-crops", "--limit", "200"],
            "are for images, but the data are texts",
        ),
        (["compare", "emoji", "--methods", "simclr,dlc"], "Did you mean 'dcl'?"),
        (["compare", "emoji", "--budget", "soon", "--limit", "200", "--methods", "simclr"], "is not a time"),
        (["embed", "no/model", "emoji", "--out", "x.npy"], "no/model"),
        (["search", "no/index", "cat"], "There is no index"),
        (["report", "no/run"], "There is no folder"),
        (["evaluate", "no/model"], "Expected: nearfar evaluate MODEL DATA"),
    ],
)
def test_wrong_usage(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, shown = said(capsys, *words)
    assert code == 2
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not shown.out.strip() or "--config" in words or "--limit" in words
    assert not (tmp_path / "x.npy").exists()


def test_unreadable_image_is_named_or_skipped(capsys, tmp_path):
    folder = images(tmp_path / "p")
    (folder / "05.png").write_bytes(b"not an image")
    code, shown = said(capsys, "data", folder)
    assert code == 2
    assert "05.png" in shown.err
    code, shown = said(capsys, "data", folder, "--unreadable", "skip", "--json")
    assert code == 0
    assert "05.png" in shown.out
    json.loads(shown.out)


def test_batch_larger_than_the_data(capsys, tmp_path):
    folder = images(tmp_path / "p", n=20)
    code, shown = said(capsys, "fit", "simclr", folder, "--batch-size", "64", "--out", tmp_path / "run")
    assert code == 2
    assert "Use --batch-size" in shown.err
    assert not (tmp_path / "run" / "config.json").exists()


def test_method_whose_needs_the_data_lack(capsys, tmp_path):
    folder = images(tmp_path / "p", n=20)
    code, shown = said(capsys, "fit", "align", folder)
    assert code == 2
    assert "needs image + text" in shown.err


def test_unknown_column(capsys, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("question,answer\n" + "".join(f"what is {i},it is {i}\n" for i in range(30)))
    code, shown = said(capsys, "fit", "pairs", table, "--text", "questoin", "--text-b", "answer")
    assert code == 2
    assert "question" in shown.err


def test_config_file_with_an_unknown_key(capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("method: simclr\ndata: emoji\ntemprature: 0.2\n")
    code, shown = said(capsys, "fit", "--config", config)
    assert code == 2
    assert "line 3" in shown.err
    assert "temperature" in shown.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(capsys, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    code, shown = said(capsys, "fit", "simclr", "emoji", "--limit", "200", "--out", locked / "run")
    assert code == 2
    assert "Cannot write" in shown.err


def test_output_is_a_file(capsys, tmp_path):
    (tmp_path / "run").write_text("mine")
    code, shown = said(capsys, "fit", "simclr", "emoji", "--limit", "200", "--out", tmp_path / "run")
    assert code == 2
    assert "is a file" in shown.err
    assert (tmp_path / "run").read_text() == "mine"


def test_a_foreign_folder_is_not_taken(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    code, shown = said(capsys, "fit", "simclr", "emoji", "--limit", "200", "--out", tmp_path / "run")
    assert code == 2
    assert "is not a run" in shown.err


def test_no_space_left(tmp_path):
    """A file size limit stands for a full disk: writing the checkpoint fails, earlier results stay."""
    import subprocess
    import sys

    program = (
        "import resource, sys; from nearfar.cli import main; from nearfar.sources import open_data; "
        "open_data('emoji', limit=200).image_memmap('image', 32); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "scores.json").write_text("{}")
    words = [
        "fit",
        "simclr",
        "emoji",
        "--limit",
        "200",
        "--steps",
        "4",
        "--val-every",
        "0",
        "--batch-size",
        "16",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Writing to" in done.stderr
    assert "Mend that, then start it again." in done.stderr  # "File too large": space is not what lacks
    assert "Traceback" not in done.stderr
    assert (tmp_path / "earlier" / "scores.json").read_text() == "{}"
    assert not (tmp_path / "run").exists()  # nothing was saved, so nothing is in the way of the next start


def test_a_stored_path_of_code_is_imported_only_on_request(capsys, tmp_path, monkeypatch):
    """A run's config may come from anywhere: what it names is not imported because it is named there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_part.py").write_text(
        "import pathlib\nfrom nearfar.losses import rows\nfrom nearfar.losses.parts import RowLoss\n"
        "pathlib.Path('imported').touch()\n\n\nclass Own(RowLoss):\n    def __call__(self, s):\n"
        "        return rows.info_nce_rows(s)\n"
    )
    folder = images(tmp_path / "p", n=24)
    words = ["fit", "simclr", folder, "--steps", "2", "--batch-size", "8", "--val-every", "0", "--out", "run"]
    assert said(capsys, *words, "--loss", "own_part.Own")[0] == 0
    (tmp_path / "imported").unlink()
    sys.modules.pop("own_part")
    parts.pop("own")
    code, shown = said(capsys, "fit", "--resume", "--out", "run")
    assert code == 2
    assert "own_part.Own" in shown.err
    assert "--trust" in shown.err
    assert not (tmp_path / "imported").exists()
    assert said(capsys, "fit", "--resume", "--trust", "--out", "run")[0] == 0
    assert (tmp_path / "imported").exists()
    parts.pop("own")
