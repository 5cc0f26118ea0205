"""results.json as compare leaves it, small, with every part; values drawn with a fixed seed."""

import copy
from functools import cache

import numpy as np

from nearfar.evaluation.comparison import compare_rows
from nearfar.evaluation.diagnostics import diagnose
from nearfar.reporting import map_2d, thumbnail

STYLES = ["twemoji", "noto", "openmoji-color", "openmoji-line"]
LEVELS = {
    "chance": ("chance", "chance", 0.004),
    "pixels": ("raw pixels", "reference", 0.367),
    "hog": ("HOG", "reference", 0.52),
    "untrained": ("untrained encoder", "untrained", 0.204),
    "simclr": ("simclr", "method", 0.216),
    "pairs": ("pairs", "method", 0.56),
    "dcl": ("dcl", "method", 0.571),
}


def image(number, size=40):
    """A coloured disc or square; uint8 (3, size, size)."""
    generator = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = (x**2 + y**2 < 0.6) if number % 2 else (abs(x) < 0.6) & (abs(y) < 0.6)
    colour = generator.integers(0, 230, 3)
    return np.where(inside, colour[:, None, None], 255).astype(np.uint8)


def cell(value, seed, generator, kind):
    names = [f"{a} → {b}" for a in STYLES for b in STYLES if a != b]
    directions = {
        name: {
            "hit@1": float(
                np.clip(value * generator.uniform(0.8, 1.2) + (0.2 if "line" in name and "color" in name else 0), 0, 1)
            ),
            "mrr": 0.5,
        }
        for name in names
    }
    trained = {"seconds": 52.3, "samples": 110_000, "samples_per_second": 2103.0, "peak_mib": 812.0}
    return {
        "seed": seed,
        "primary": value,
        "status": "done",
        "message": "",
        "directions": directions,
        "metrics": {
            "hit@1": value,
            "hit@10": min(1, value * 1.5),
            "recall@1": value,
            "mrr": value * 1.1,
            "ndcg@10": value * 1.2,
            "hard/hit@1": value * 0.8,
        },
        **(trained if kind == "method" else {"seconds": 1.2, "samples": 0}),
    }


def rows(seeds=3):
    generator = np.random.default_rng(0)
    result = []
    for slug, (label, kind, level) in LEVELS.items():
        count = seeds if kind in ("method", "untrained") else 1
        cells = [
            cell(level + (0.008 * generator.normal() if count > 1 else 0), seed, generator, kind)
            for seed in range(count)
        ]
        result.append(
            {"slug": slug, "label": label, "kind": kind, "seeds": cells, "bootstrap": [level - 0.03, level + 0.03]}
        )
    return result


def two_kinds():
    """Results of which one trained row saw labels, and is the best."""
    table = [row | {"supervised": row["slug"] == "pairs"} for row in rows()]
    return results() | compare_rows(table, "simclr")


def example(number, found, text=False):
    def item(place):
        return {
            "key": f"item {place}",
            **({"text": f"A passage about thing {place}. " * 4} if text else {"image": thumbnail(image(place))}),
        }

    hits = [
        item(number + place) | {"score": 0.9 - place / 10, "relevant": (place == 0) == found and place < 2}
        for place in range(5)
    ]
    return {
        "direction": "text → text_b" if text else "noto → twemoji",
        "rank": 1 if found else 14,
        "query": item(number),
        "hits": hits,
    }


def embedding(n=240, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 12
    return generator.normal(size=(12, 16))[labels] + 0.5 * generator.normal(size=(n, 16)), labels


@cache
def places_of(n, seed):
    return map_2d(embedding(n, seed)[0])


def map_of(n=240, seed=0, text=False):
    labels, places = embedding(n, seed)[1], places_of(n, seed)
    return {
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "label": [f"kind {label}" for label in labels],
        "key": [f"item {row}" for row in range(n)],
        **(
            {"text": [f"words of {row}" for row in range(n)]}
            if text
            else {"thumb": [thumbnail(image(row)) for row in range(n)]}
        ),
    }


def curve(seed):
    return [
        {"step": step, "loss": 5 * np.exp(-step / 200) + 1 + seed / 20, "seconds": step / 9}
        for step in range(0, 800, 10)
    ]


def results(seeds=3, text=False):
    """A fresh copy each time, since tests change it."""
    return copy.deepcopy(_results(seeds, text))


@cache
def _results(seeds, text):
    z, labels = embedding()
    outline = {"openmoji-color → openmoji-line", "openmoji-line → openmoji-color"}
    hard = [f"{a} → {b}" for a in STYLES for b in STYLES if a != b and f"{a} → {b}" not in outline]
    trained = ["dcl", "pairs"]
    return {
        "format": 1,
        "data": {
            "name": "emoji",
            "hash": "ab12" * 16,
            "split": "test",
            "split_hash": "cd34" * 16,
            "rows": {"train": 9444, "val": 1540, "test": 3092},
            "roles": {"image": "image", "group": "emoji", "unit": "family", "domain": "style"},
        },
        "task": {
            "primary": "hit@1",
            "description": "Retrieval of the same thing in another domain, on groups never "
            "trained on: hit@1 by image, mean over every ordered pair of styles.",
            "proxy": False,
            "higher_is_better": True,
            "hard": hard,
        },
        "plan": {
            "steps": 800,
            "batch_size": 256,
            "encoder": "small",
            "seeds": list(range(seeds)),
            "precision": "32-true",
            "budget_seconds": 300,
        },
        "baseline": "simclr",
        **compare_rows(rows(seeds), "simclr"),
        "diagnostics": {slug: [item.to_dict() for item in diagnose(z, labels=labels)] for slug in trained},
        "examples": {slug: [example(number, number % 2 == 0, text) for number in range(4)] for slug in trained},
        "map": {slug: map_of(seed=place, text=text) for place, slug in enumerate(trained)},
        "curves": {slug: {str(seed): curve(seed) for seed in range(seeds)} for slug in ("simclr", "pairs", "dcl")},
        "commands": [
            "nearfar compare emoji --methods simclr,pairs,dcl --seeds 3 --budget 5m",
            'nearfar search runs/emoji/best "smiling cat"',
        ],
        "versions": {"nearfar": "0.1.0", "torch": "2.14.1", "python": "3.11.7"},
        "seconds": 512.0,
    }
