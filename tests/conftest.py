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


@pytest.fixture(scope="session")
def data_of(emoji_few):
    """Of the slug of a method: small data that hold what it needs."""
    from nearfar import methods
    from nearfar.sources import open_data

    numbers = open_data("diabetes")
    return lambda slug: numbers if methods.get(slug).target == "numbers" else emoji_few
