"""What a report shows of a trained model: its curve, its diagnostics, a map of its space, retrieval examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import evaluation, reporting
from nearfar.models import load
from nearfar.training.modelled import ModelEmbedder


def curve(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's learning curve."""
    path = run / "curve.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def illustrate(model_folder: Path, data: Any, task: Any, *, points: int = 700, examples: int = 8) -> dict[str, Any]:
    """diagnostics, examples and map of one model on the test (else validation) rows."""
    split = "test" if len(data.splits.get("test", ())) else "val"
    embed = ModelEmbedder(load(model_folder), data)
    if not all(embed.has(r) for r in task.roles):
        return {}
    scores = task.evaluate(embed, split, examples=examples)
    rows = np.asarray(data.splits[split])
    return {"diagnostics": [d.to_dict() for d in diagnostics(embed, data, task, rows)],
            "examples": [example(data, e) for e in scores.examples],
            "map": map_of(embed, data, task.roles[0], rows, points)}


def diagnostics(embed: Any, data: Any, task: Any, rows: np.ndarray, most: int = 3000) -> list[Any]:
    """Numbers with verdict and advice for the embedding of (at most `most` of) the rows."""
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
    role = task.roles[0]
    other = next((r for r in task.roles[1:] if r != role), None)
    labels = next(iter(data.labels.values()))[rows] if data.labels else None
    groups = data.groups[rows] if data.groups is not None else None
    paired = embed(other, rows) if other is not None and embed.has(other) else None
    return evaluation.diagnose(embed(role, rows), labels=labels, groups=groups, other=paired)


def item(data: Any, role: str, row: int) -> dict[str, Any]:
    """A row as the report shows it: its key, and a text or a thumbnail."""
    if role.startswith("image"):
        return {"key": data.keys[row], "image": reporting.thumbnail(data.images(role, 48, np.array([row]))[0])}
    return {"key": data.keys[row], "text": data.texts(role, np.array([row]))[0]}


def example(data: Any, e: Any) -> dict[str, Any]:
    """One retrieval example with pictures or texts."""
    hits = []
    for h in e.hits:
        shown = item(data, h.role, h.row) if h.row >= 0 else {"key": f"corpus {h.corpus}", "text": data.corpus[h.role][h.corpus]}
        hits.append(shown | {"score": float(h.score), "relevant": bool(h.relevant)})
    return {"query": item(data, e.role, e.row), "hits": hits, "direction": e.direction, "rank": int(e.rank)}


def map_of(embed: Any, data: Any, role: str, rows: np.ndarray, points: int) -> dict[str, Any]:
    """A 2-D map of (at most `points` of) the rows."""
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:points])
    xy = reporting.map_2d(embed(role, rows))
    shown = [item(data, role, int(r)) for r in rows]
    name = next(iter(data.labels)) if data.labels else None
    if name is not None:
        label = [data.label_names[name][v] if v >= 0 else "" for v in data.labels[name][rows]]
    elif data.domains is not None:
        label = [data.domain_names[v] for v in data.domains[rows]]
    else:
        label = [""] * len(rows)
    found = {"x": xy[:, 0].round(3).tolist(), "y": xy[:, 1].round(3).tolist(), "label": label,
             "key": [s["key"] for s in shown]}
    kind = "image" if role.startswith("image") else "text"
    found["thumb" if kind == "image" else "text"] = [s[kind] for s in shown]
    return found
