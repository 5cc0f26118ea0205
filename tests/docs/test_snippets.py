"""The Python of README and docs that is marked as runnable is run, page by page, beside a small folder of data."""

import csv
import shutil
import sys
import types

import numpy as np
import pytest
from PIL import Image

from tests.docs import pages

WITH_CODE = [p for p in pages.PAGES if pages.runnable(p)]


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """A reader's folder: photos/, pairs.csv and the examples of the docs."""
    folder = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    for kind in ("apple", "pear"):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(20):
            coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
            Image.fromarray(image).save(folder / "photos" / kind / f"{i:02}.png")
    with open(folder / "pairs.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows([f"What is {n} times {n}?", f"It is {n * n}, the square of {n}."] for n in range(40))
    shutil.copytree(pages.ROOT / "docs" / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_the_main_pages_have_runnable_code():
    assert {"README.md", "docs/index.md", "docs/core.md", "docs/adding.md"} <= {pages.name(p) for p in WITH_CODE}


@pytest.mark.parametrize("path", WITH_CODE, ids=pages.name)
def test_snippets_run(path, reader, monkeypatch):
    monkeypatch.chdir(reader)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = types.ModuleType(f"snippets_of_{path.stem.lower()}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, code in pages.runnable(path):
        padded = "\n" * line + code  # so that a traceback names the line of the page
        exec(compile(padded, pages.name(path), "exec"), module.__dict__)
