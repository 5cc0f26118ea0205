from collections import Counter

import numpy as np
import pytest

from nearfar import evaluation
from nearfar.sources import open_data
from nearfar.sources.sets.sentences import Sentence, graded_pairs, sentences_in, sentences_of
from nearfar.sources.words import near_copies

DOC = """Open the box with a key, e.g. The small one of brass.

It may fail where the lock is
rusty. Try it!  short one.

Parameters
----------
key : str
    The key that opens the box and nothing else.

Notes
-----
The lock was made by hand a long time ago. It has `five pins.

>>> open("box") is a line of code that nobody reads.
- A list of things that are not said.
See Also
--------
close : Closes the box that was opened before.
"""


def test_what_a_sentence_is():
    assert sentences_in(DOC) == [
        "Open the box with a key, e.g. The small one of brass.",
        "It may fail where the lock is rusty.",
        "The lock was made by hand a long time ago.",
    ]
    assert sentences_in("") == []
    assert sentences_in("word " * 40 + "end.") == []


def test_every_docstring_of_a_file_is_read(tmp_path):
    (tmp_path / "m.py").write_text(
        '"""This module opens boxes of all kinds."""\n\n'
        'class Box:\n    """A box that can be opened once."""\n\n'
        '    def open(self):\n        """Opens the box and looks inside. Shuts it again after that look."""\n'
    )
    found = list(sentences_of(tmp_path / "m.py", "m", "pkg"))
    assert [one.document for one in found] == ["m:", "m:Box", "m:Box.open", "m:Box.open"]
    assert {(one.module, one.package) for one in found} == {("m", "pkg")}


def many(packages=3, modules=6, documents=8, sentences=3):
    return [
        Sentence(f"{p} {m} {d} {s}", f"{p}.{m}:{d}", f"{p}.{m}", str(p))
        for p in range(packages)
        for m in range(modules)
        for d in range(documents)
        for s in range(sentences)
    ]


def test_what_the_grades_say():
    most = (12, 10, 11)
    zeros, ones, twos = graded_pairs(many(), most, np.random.default_rng(0))
    assert [len(zeros), len(ones), len(twos)] == list(most)
    assert all(a.package != b.package for a, b in zeros)
    assert all(a.module == b.module and a.document != b.document for a, b in ones)
    assert all(a.document == b.document and a.text != b.text for a, b in twos)
    used = Counter(name for pairs in (zeros, ones, twos) for a, b in pairs for name in {a.document, b.document})
    assert set(used.values()) == {1}


@pytest.mark.parametrize("sentences", [many(2, 2, 4, 2), many(1, 3, 4, 2), many(3, 5, 1, 2), many(3, 3, 3, 1), []])
def test_grades_stay_in_proportion_where_there_are_few(sentences):
    counts = [len(pairs) for pairs in graded_pairs(sentences, (100, 100, 100), np.random.default_rng(0))]
    assert max(counts) - min(counts) <= 1


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    return open_data("sentences", limit=1500, cache=tmp_path_factory.mktemp("cache"))


def test_rows(sentences):
    data, train = sentences, sentences.splits["train"]
    assert data.only_tested == {"text_b", "score"}
    assert len(train) > 600
    assert {name: len(rows) > 10 for name, rows in data.splits.items()} == dict.fromkeys(data.splits, True)
    texts = data.texts("text") + [text for text in data.texts("text_b") if text]
    assert (near_copies(texts) != np.arange(len(texts))).mean() < 0.01  # candidates depend on the order
    assert all(5 <= len(text.split()) <= 30 for text in texts)
    for name in ("val", "test"):
        grades = Counter(data.scores[data.splits[name]].tolist())
        assert set(grades) == {0, 1, 2}
        assert max(grades.values()) - min(grades.values()) <= 1
    assert data.groups is None
    assert set(data.domain_names) >= {"python", "numpy", "torch"}


def test_no_module_straddles(sentences):
    modules = [set(sentences.texts("module", rows)) for rows in sentences.splits.values()]
    assert not modules[0] & (modules[1] | modules[2])
    assert not modules[1] & modules[2]
    assert sentences.leaks() == 0
    assert sentences.shared() == []


def test_the_same_again(sentences, tmp_path):
    again = open_data("sentences", limit=1500, cache=tmp_path)
    assert again.hash == sentences.hash
    assert again.split_hash == sentences.split_hash
    few = [open_data("sentences", limit=100, cache=tmp_path, seed=seed) for seed in (0, 1)]
    assert few[0].split_hash != few[1].split_hash
    assert "score" not in few[0].roles  # too few for pairs


def test_words_alone_tell_something(sentences):
    """Pairs of one docstring share more words than those of two packages: above chance, far below a perfect score."""
    task = evaluation.task_for(sentences)
    tfidf = next(one for one in evaluation.references(sentences, task) if one.slug == "tfidf")
    assert 0.1 < tfidf.evaluate("test").primary < 0.9


def test_sentences_of_one_docstring_are_positives_when_asked(tmp_path):
    data = open_data("sentences", {"group": "document"}, limit=1500, cache=tmp_path)
    train = data.splits["train"]
    assert len(np.unique(data.groups[train])) < len(train)
    assert evaluation.task_for(data).kind == "sts"
