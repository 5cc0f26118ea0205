"""Small images, 2-D maps and retrieval examples as JSON for results.json and the report."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.evaluation.dense import IGNORE
from nearfar.evaluation.searches import Changed, Example
from nearfar.evaluation.task import Scores
from nearfar.evaluation.tasks.dense import Segmented
from nearfar.reporting.cells import thumbnail
from nearfar.vectors import normalise

if TYPE_CHECKING:
    from nearfar.sources.data import Data

MAP_POINTS = 1500


def map_2d(z: Any, *, seed: int = 0) -> np.ndarray:
    """Places (n, 2) in -1..1 of embeddings (n, d): t-SNE with cosine distance, begun from PCA; seeded.

    For fewer than ten rows PCA alone; zeros where all are equal.
    Raises InputError for more than 1500 rows: draw some first.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    z = normalise(z)
    if len(z) > MAP_POINTS:
        raise InputError(f"A map takes at most {MAP_POINTS} points. Got {len(z)} instead.", "Draw some of them.")
    if min(z.shape) < 2 or np.ptp(z, axis=0).max() < 1e-9:
        return np.zeros((len(z), 2))
    if len(z) < 10:
        places = PCA(2, random_state=seed).fit_transform(z)
    else:
        width = PCA(min(50, *z.shape), random_state=seed).fit_transform(z)
        nearby = min(30, (len(z) - 1) / 3)
        places = TSNE(perplexity=nearby, init="pca", max_iter=500, random_state=seed).fit_transform(width)
    places = np.asarray(places, np.float64)
    places = places - places.mean(0)
    return places / max(np.abs(places).max(), 1e-9)


def map_json(
    data: Data,
    role: str,
    rows: Any,
    z: Any,
    labels: Sequence[str] | None = None,
    *,
    size: int | None = None,
    seed: int = 0,
) -> dict[str, list]:
    """The map of embeddings z (n, d) of the rows, as it stands in results.json: x, y, label, key and thumb or text.

    size: pixels of a thumbnail; by default that of the data's own images where it is known, else 48.
    """
    size = size or _native(data)
    rows, places = np.asarray(rows), map_2d(z, seed=seed)
    kind = modalities.of(role)
    found = kind.show(data, role, kind.items(data, role, rows, size), size)
    names = {"image": "thumb"}
    shown = {names.get(name, name): [cell[name] for cell in found] for name in (found[0] if found else ())}
    return {
        "x": places[:, 0].round(4).tolist(),
        "y": places[:, 1].round(4).tolist(),
        "label": list(labels) if labels is not None else [""] * len(rows),
        "key": data.names(role, rows),
        **shown,
    }


def examples_json(data: Data, examples: Sequence[Example], *, size: int | None = None) -> list[dict[str, Any]]:
    """Examples as they stand in results.json: direction, rank of the first relevant item, query and hits, each with
    key and image (data-URI, `size` pixels as in `map_json`) or text."""
    size = size or _native(data)
    return [
        {
            "direction": example.direction,
            "rank": example.rank,
            "query": _item(data, example.role, example.row, -1, size, example.changed),
            "hits": [
                _item(data, hit.role, hit.row, hit.corpus, size)
                | {"score": round(hit.score, 4), "relevant": hit.relevant}
                for hit in example.hits
            ],
        }
        for example in examples
    ]


def shown_json(data: Data, scores: Scores) -> dict[str, list[dict[str, Any]]]:
    """What a task shows of a model, as it stands in results.json, by section."""
    draw = {
        "examples": lambda shown: examples_json(data, shown),
        "masks": lambda shown: masks_json(data, shown),
        "tables": lambda shown: [asdict(table) for table in shown],
    }
    return {section: draw[section](shown) for section, shown in scores.shown().items()}


def masks_json(data: Data, shown: Sequence[Segmented], *, size: int = 128) -> list[dict[str, Any]]:
    """Images with their masks as they stand in results.json: key, image, truth and found (data-URIs), miou."""
    out = []
    for one in shown:
        image = data.images(one.role, size, np.array([one.row]))[0]
        out.append(
            {
                "key": data.names(one.role, [one.row])[0],
                "image": thumbnail(image, size),
                "miou": round(one.miou, 4),
                "truth": thumbnail(painted(image, one.truth), size),
                "found": thumbnail(painted(image, one.found), size),
            }
        )
    return out


def class_colour(value: int) -> tuple[int, int, int]:
    """The colour of a class in every image: hues a golden angle apart, so that neighbours differ; 255 is grey."""
    if value == IGNORE:
        return 190, 190, 190
    red, green, blue = colorsys.hsv_to_rgb((0.12 + 0.381966 * (value - 1)) % 1, 0.85, 0.98 - 0.28 * (value // 8 % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def painted(image: Any, mask: Any, *, strength: float = 0.72) -> np.ndarray:
    """A uint8 image (3, h, w) under the colours of its mask (s, s); class 0, by custom the background, is darkened
    only. Returns uint8 (h, w, 3)."""
    pixels = np.asarray(image).transpose(1, 2, 0).astype(np.float64)
    large = Image.fromarray(np.asarray(mask, np.uint8)).resize(pixels.shape[1::-1], Image.Resampling.NEAREST)
    values = np.asarray(large)
    colours = np.array([(0, 0, 0), *(class_colour(value) for value in range(1, 256))], np.float64)
    shares = np.where(values == 0, 0.55, strength)[..., None]
    return ((1 - shares) * pixels + shares * colours[values]).round().astype(np.uint8)


def _native(data: Data) -> int:
    return int((data.meta or {}).get("native_size") or 48)


def _item(data: Data, role: str, row: int, corpus: int, size: int, changed: Changed | None = None) -> dict[str, Any]:
    if row < 0:
        keys = getattr(data, "corpus_keys", None) or {}
        key = keys[role][corpus] if role in keys else f"corpus {corpus}"
        return {"key": str(key)} | modalities.of(role).show(data, role, [data.corpus[role][corpus]], size)[0]
    rows, kind = np.array([row]), modalities.of(role)
    items = kind.items(data, role, rows, size)
    shown = items if changed is None else changed(items, rows)
    return {"key": data.names(role, rows)[0]} | kind.show(data, role, shown, size)[0]
