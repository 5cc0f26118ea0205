"""Shared fixtures: a cache of their own, and small real data."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    before = os.environ.get("NEARFAR_CACHE")
    os.environ["NEARFAR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["NEARFAR_CACHE"]
    else:
        os.environ["NEARFAR_CACHE"] = before


@pytest.fixture(scope="session")
def emoji_few(own_cache):
    """400 rows of the built-in set, all columns."""
    from nearfar.sources import open_data

    return open_data("emoji", limit=400)


def write_bags(path, bags=60, size=6, share=0.34, seed=0):
    """A table of bags of rows of four numbers: in a positive bag a share of the rows lie elsewhere. Columns: a, b, c,
    d, bag, state (of the bag), truth (of the row)."""
    import numpy as np

    rng, lines = np.random.default_rng(seed), ["a,b,c,d,bag,state,truth"]
    for bag in range(bags):
        for place in range(size):
            hot = bag % 2 == 1 and place < share * size
            row = rng.normal(size=4) + np.array([3 * hot, 0, -2 * hot, 0])
            lines.append(",".join([*(f"{x:.4f}" for x in row), f"slide {bag}", ("normal", "tumour")[bag % 2],
                                   ("normal", "tumour")[hot]]))  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def bags_few(own_cache, tmp_path_factory):
    """60 bags of six rows of numbers, half of them positive."""
    from nearfar.sources import open_data

    table = write_bags(tmp_path_factory.mktemp("bags") / "bags.csv")
    return open_data(table, roles={"bag": "bag", "target": "state", "label": ["truth"]})


@pytest.fixture(scope="session")
def code_few(own_cache, tmp_path_factory):
    """140 small functions of Python and what they do."""
    import json

    from nearfar.sources import open_data

    verbs = ["add", "count", "read", "sort", "merge", "find", "drop", "scale", "split", "join", "copy", "check", "move",
             "save"]  # fmt: skip
    nouns = ["rows", "files", "words", "trees", "edges", "dates", "parts", "names", "pages", "links"]
    rows = [{"query": f"{verb} the {noun}", "code": f"def {verb}_{noun}(x):\n    return {verb}(x, {i}) + '{noun}'"}
            for i, verb in enumerate(verbs) for noun in nouns]  # fmt: skip
    path = tmp_path_factory.mktemp("code") / "code.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return open_data(path, roles={"text": "query", "text_b": "code"})


@pytest.fixture(scope="session")
def data_of(emoji_few, bags_few, code_few):
    """Of the slug of a method: small data that hold what it needs."""
    from nearfar import methods
    from nearfar.sources import open_data

    numbers = open_data("diabetes")

    def suiting(slug):
        needs = methods.get(slug).needs
        if all("bag" in need for need in needs):
            return bags_few
        if all("text_b" in need for need in needs):
            return code_few
        return numbers if methods.get(slug).target == "numbers" else emoji_few

    return suiting
