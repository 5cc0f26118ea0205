from collections import Counter

import numpy as np
import pytest

from nearfar import evaluation
from nearfar.sources import open_data
from nearfar.sources.sets.docstrings import Documented, docstrings_of, mismatched
from nearfar.sources.words import near_copies, normal

SOURCE = '''
"""This module opens boxes. It is short."""

def open(box):
    """Open the box with a key.  It may fail where the lock is rusty or the key is lost.

    The second paragraph follows %s
    """

def told():
    """Say the same thing twice. And again: say the same thing twice. So it goes on here."""
''' % " ".join(f"word{i}" for i in range(80))  # noqa: UP031


def test_a_docstring_in_two(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    (one,) = docstrings_of(tmp_path / "m.py", "pkg.m", "pkg")
    assert one.id == "pkg.m:open"
    assert one.summary == "Open the box with a key."
    words = one.body.split()
    assert words[:3] == ["It", "may", "fail"]
    assert len(words) == 64
    assert "paragraph" in words


def test_pairs_that_do_not_belong_together():
    part = [Documented(f"{p}{i}", f"s {p}{i}", f"b {p}{i}", "1", "m", p, "test") for p in "abc" for i in range(5)]
    part.append(Documented("d0", "s d0", "b d0", "1", "m", "d", "test"))
    rows = mismatched(part, np.random.default_rng(0))
    assert len(rows) == 15
    own = {one.summary: one.body for one in part}
    assert all(row.label == "0" and row.body != own[row.summary] for row in rows)
    assert all(row.body.split()[1][0] == row.package for row in rows)
    assert sorted(row.body for row in rows) == sorted(one.body for one in part[:-1])
    assert len({row.id for row in rows} | {one.id for one in part}) == 31


@pytest.fixture(scope="module")
def docstrings(tmp_path_factory):
    return open_data("docstrings", limit=800, cache=tmp_path_factory.mktemp("cache"))


def test_rows(docstrings):
    data, train = docstrings, docstrings.splits["train"]
    assert data.pair_labels[train].min() == 1
    for name in ("val", "test"):
        labels = data.pair_labels[data.splits[name]]
        assert abs(int((labels == 1).sum()) - int((labels == 0).sum())) <= len(data.domain_names)
    pairs = zip(data.texts("text"), data.texts("text_b"), strict=True)
    assert all(normal(a) not in normal(b) for (a, b), label in zip(pairs, data.pair_labels) if label)
    bodies = [text for text, label in zip(data.texts("text_b"), data.pair_labels, strict=True) if label]
    assert (near_copies(bodies) != np.arange(len(bodies))).mean() < 0.01  # candidates depend on the order
    assert data.leaks() == 0
    assert set(data.domain_names) >= {"python", "numpy", "torch"}
    assert max(Counter(data.keys).values()) == 1


def test_words_alone_tell_pairs_apart(docstrings):
    task = evaluation.task_for(docstrings, "pair-labels")
    task.check()
    chance, tfidf = (one.evaluate("test") for one in evaluation.references(docstrings, task)[:2])
    assert chance.primary < 0.6 < tfidf.primary
    assert len(tfidf.domains) >= 3


def test_the_same_again(docstrings, tmp_path):
    assert open_data("docstrings", limit=800, cache=tmp_path).hash == docstrings.hash
