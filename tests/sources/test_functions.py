import numpy as np
import pytest

from nearfar.sources import export_beir, open_data
from nearfar.sources.installed import packages
from nearfar.sources.sets.functions import functions_of
from nearfar.sources.words import near_copies, normal

SOURCE = '''
class Box:
    async def open(self, key):
        """Open the box with a key.  It may fail.

        More text.
        """
        # turn it
        lid = self.lid

        turned = key.turn(lid)
        return turned

    def short(self):
        """This one has a body of one line."""
        return 1

    def told(self):
        """Return the hidden value now."""
        a = 1
        b = 2
        c = "return the hidden value now."
        return a + b

    def bare(self):
        """Too few words."""
        a = 1
        b = 2
        c = 3
        return a + b + c
'''


def test_what_a_pair_is(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    (pair,) = functions_of(tmp_path / "m.py", "pkg.m", "pkg")
    assert pair.id == "pkg.m:Box.open"
    assert pair.summary == "Open the box with a key."
    lines = [
        "async def open(self, key):",
        "    # turn it",
        "    lid = self.lid",
        "    turned = key.turn(lid)",
        "    return turned",
    ]
    assert pair.code == "\n".join(lines)


def test_broken_sources_are_passed_over(tmp_path):
    (tmp_path / "m.py").write_text("def f(:\n")
    assert list(functions_of(tmp_path / "m.py", "m", "m")) == []


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return open_data("functions", limit=300, cache=tmp_path_factory.mktemp("cache"))


def test_pairs(functions):
    assert 200 < len(functions) <= 300
    assert {"python", "numpy", "torch"} <= set(packages())
    summaries, codes = functions.texts("text"), functions.texts("text_b")
    assert len({normal(s) for s in summaries}) == len(functions)
    assert near_copies(codes).tolist() == list(range(len(functions)))
    assert all(normal(s) not in normal(c) for s, c in zip(summaries, codes, strict=True))
    assert all('"""' not in c.split("\n")[1] for c in codes)
    assert len(set(functions.texts("package"))) >= 5


def test_no_module_straddles(functions):
    modules = [set(functions.texts("module", rows)) for rows in functions.splits.values()]
    assert all(modules)
    assert not modules[0] & modules[1]
    assert not modules[0] & modules[2]
    assert not modules[1] & modules[2]


def test_built_once_and_the_same_again(functions, tmp_path):
    again = open_data("functions", limit=300, cache=tmp_path)
    assert again.hash == functions.hash
    assert again.split_hash == functions.split_hash
    stored = open_data("functions", limit=300, cache=functions._cache)
    assert np.array_equal(stored.digests("text"), functions.digests("text"))


def test_as_beir(functions, tmp_path):
    data = open_data(export_beir(functions, tmp_path / "beir"), cache=tmp_path / "c")
    assert len(data) == len(functions)
    for name, rows in functions.splits.items():
        assert set(data.texts("text", data.splits[name])) == set(functions.texts("text", rows))
