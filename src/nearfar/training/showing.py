"""What a report shows of a trained model: its curve, its diagnostics, a map of its space, retrieval examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import evaluation, modalities, reporting
from nearfar.encoders import Joined
from nearfar.methods.inference import Request
from nearfar.models import load
from nearfar.training.callbacks import curve_lines
from nearfar.training.embedding import Progress
from nearfar.training.modelled import ModelEmbedder

if TYPE_CHECKING:
    from nearfar.evaluation.task import Task
    from nearfar.sources.data import Data


def curve(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's learning curve."""
    return curve_lines(run / "curve.jsonl")


def illustrate(model_folder: Path, data: Data, task: Task, *, points: int = 600, examples: int = 8) -> dict[str, Any]:
    """diagnostics, what the task shows (examples, masks, tables), and (unless points is 0) map of one model on the test
    (else validation) rows."""
    split = "test" if len(data.splits.get("test", ())) else "val"
    embed = ModelEmbedder(load(model_folder), data)
    if not all(embed.has(r) for r in task.roles):
        return {}
    scores = task.evaluate(embed, split, examples=examples)
    rows = np.asarray(data.splits[split])
    shown = {
        "diagnostics": [d.to_dict() for d in diagnostics(embed, data, task, rows)],
        **reporting.shown_json(data, scores),
    }
    return shown | {"map": map_of(embed, data, task.roles[0], rows, points)} if points else shown


def diagnostics(embed: Any, data: Data, task: Task, rows: np.ndarray, progress: Progress | None = None) -> list[Any]:
    """Numbers with verdict and advice for the embedding of the rows."""
    role = task.roles[0]
    other = next((r for r in task.roles[1:] if r != role and embed.has(r)), None)
    found = evaluation.diagnose(
        embed(role, rows),
        labels=next(iter(data.labels.values()))[rows] if data.labels else None,
        groups=None if data.groups is None else data.groups[rows],
        contents=data.content(role)[rows],
        domains=None if data.domains is None else data.domains[rows],
        partner=embed(other, rows) if other is not None else None,
        two_modalities=other is not None and modalities.of(other) is not modalities.of(role),
    )
    own = [] if embed.inference is None else embed.inference.diagnostics(Request(data, rows, embed))
    return [*found, *own, *stage_readouts(embed, data, role, rows, progress)]


def stage_readouts(embed: Any, data: Data, role: str, rows: np.ndarray, progress: Progress | None = None) -> list[Any]:
    """What is read off linearly after each stage, for a model that has several stages and data with several columns of
    labels (or domains); nothing otherwise."""
    encoder = embed.tower(role).encoder
    several = isinstance(encoder, Joined) and len(encoder.widths) > 1 and len(factors_of(data)) > 1
    return evaluation.factor_diagnostics(read_stages(embed, data, role, rows, progress=progress)) if several else []


def factors_of(data: Data) -> dict[str, np.ndarray]:
    """Name -> integer of each row: the columns of labels, and the domain."""
    found = {name: np.asarray(values) for name, values in data.labels.items()}
    return found if data.domains is None else found | {str(data.roles["domain"]): np.asarray(data.domains)}


def read_stages(
    embed: Any, data: Data, role: str, rows: np.ndarray, most: int = 2000, progress: Progress | None = None
) -> list[evaluation.Readout]:
    """How well each label and the domain is read off linearly after each stage of the model (one for an ordinary
    encoder), on the rows; the probe sees at most `most` training rows. Nothing without training or validation rows."""
    encoder = embed.tower(role).encoder
    widths = encoder.widths if isinstance(encoder, Joined) else [encoder.dim]
    train, val = (np.asarray(data.splits.get(part, ())) for part in ("train", "val"))
    if not len(train) or not len(val):
        return []
    chosen = {"train": np.sort(np.random.default_rng(0).permutation(train)[:most]), "val": val, "test": rows}
    vectors = {part: embed(role, some) for part, some in chosen.items()}
    labels = {name: {part: y[some] for part, some in chosen.items()} for name, y in factors_of(data).items()}
    return evaluation.read_factors(vectors, widths, labels, progress=progress)


def map_of(embed: Any, data: Data, role: str, rows: np.ndarray, points: int) -> dict[str, Any]:
    """A 2-D map of (at most `points` of) the rows, coloured by the first label, else the domain."""
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:points])
    labels = None
    if data.labels:
        name = next(iter(data.labels))
        labels = [data.label_names[name][v] if v >= 0 else "" for v in data.labels[name][rows]]
    elif data.domains is not None:
        labels = [data.domain_names[v] if v >= 0 else "" for v in data.domains[rows]]
    return reporting.map_json(data, role, rows, embed(role, rows), labels)
