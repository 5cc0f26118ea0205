"""What a model answers beside vectors: `predict` of rows of data, `generate` from prompts. Each is a command and a
Python call of the same name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from nearfar import files, options, stores
from nearfar.checks import PositiveInt, Seed, checked
from nearfar.errors import InputError, did_you_mean
from nearfar.methods.inference import Inference, Request
from nearfar.methods.zero_shot import ByNames
from nearfar.tabular import output, write_table
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import DataSettings
from nearfar.using import columns_of, open_model

Progress = Callable[[int, int], None]
CHUNK = 1024  # rows that are asked about at once
TEXTS = (".txt", ".jsonl")


@dataclass(frozen=True)
class Predictions:
    """The key of each row, and the columns that the model answers; `path`: the file (or URL) they were written to."""

    keys: list[str]
    columns: dict[str, list[Any]]
    path: Path | str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One dict a row."""
        return [
            {"key": key, **{name: values[k] for name, values in self.columns.items()}}
            for k, key in enumerate(self.keys)
        ]


def answering(model: Any, *verbs: str) -> tuple[Any, Inference]:
    """The loaded model and what answers in it. Raises InputError where it does none of the verbs."""
    loaded = open_model(model)
    found: Any = loaded.inference
    if found is None and "predict" in verbs and "text" in loaded.modalities:
        found = ByNames()
    able = [] if found is None else found.verbs
    if found is None or not set(able) & set(verbs):
        method = loaded.config.get("method", "this method")
        can = f"It can {' and '.join(able)}." if able else "It gives vectors: nearfar embed MODEL DATA --out X."
        raise InputError(f"A model of '{method}' does not {' or '.join(verbs)}.", can)
    return loaded, found


def settings_of(inference: Inference, given: Mapping[str, Any]) -> Any:
    """The module's own options, checked. Raises InputError for one that it does not have."""
    names = [f.name for f in dataclasses.fields(inference.options)]
    for name in given:
        if name not in names:
            message = f"This model has no option '{name}'.{did_you_mean(name, names)}"
            raise InputError(message, f"Options: {', '.join(names) or 'none'}.")
    return options.build(inference.options, options.checked([inference.options], dict(given)))


@checked
def predict(
    model: Any,
    data: Any,
    *,
    out: str | Path | None = None,
    on: Literal["all", "train", "val", "test"] = "all",
    batch_size: PositiveInt = 256,
    variant: str | None = None,
    progress: Progress | None = None,
    data_settings: DataSettings | None = None,
    **given: Any,
) -> Predictions:
    """What a model says of each row of data: classes, numbers, scores of pairs, and how sure it is.

    Args:
        model: a model or its folder; data: path, name, object in memory or Data.
        out: FILE.csv, .tsv, .jsonl or .parquet (also a URL) with the key of each row and the answers.
        on: which rows: all, or a split.
        batch_size: rows that pass the encoder at once.
        variant: which of the vectors of one input is used, where the model gives several.
        given: options of the model's own, and fields of DataSettings.

    Raises InputError: a model that does not predict, data that lack what it needs, an output that exists.
    """
    with output(out) as place:
        loaded, module = answering(model, "predict", "score")
        roles, rest = columns_of(given, data_settings)
        opened, own = roles.open(data), settings_of(module, rest)
        rows = opened.ids if on == "all" else np.asarray(opened.splits[on])
        if not len(rows):
            raise InputError(f"The {on} split of {opened.name} has no rows.", "Leave out --on.")
        embed = ModelEmbedder(loaded, opened, batch_size, variant)
        columns = answers(module, Request(opened, rows, embed), own, progress)
        keys = [opened.keys[row] for row in rows]
        if place is not None:
            write_table(place, {"key": keys, **columns})
    return Predictions(keys, columns, out if stores.is_url(out) else place)


def answers(module: Inference, request: Request, own: Any, progress: Progress | None = None) -> dict[str, list[Any]]:
    """Column -> a plain value for each row, asked in pieces unless the answers depend on each other."""
    found: dict[str, list[Any]] = {}
    size = len(request.rows) if module.whole else CHUNK
    for start in range(0, len(request.rows), size):
        part = dataclasses.replace(request, rows=request.rows[start : start + size])
        with torch.inference_mode():
            answers = module.predict(part, own) if "predict" in module.verbs else {"score": module.score(part, own)}
        for name, values in answers.items():
            listed = plain(values)
            if len(listed) != len(part.rows):
                whose = type(module).__name__
                raise TypeError(f"{whose} gave {len(listed)} values of '{name}' for {len(part.rows)} rows")
            found.setdefault(name, []).extend(listed)
        if progress:
            progress(min(start + size, len(request.rows)), len(request.rows))
    return found


def plain(values: Any) -> list[Any]:
    """Values as Python has them, in a list."""
    return values.tolist() if isinstance(values, torch.Tensor | np.ndarray) else list(values)


@checked
def generate(
    model: Any,
    prompts: Sequence[str] | str = (),
    *,
    out: str | Path | None = None,
    seed: Seed = 0,
    **given: Any,
) -> list[Any]:
    """What a model makes of prompts (or of nothing): texts or images.

    Args:
        model: a model or its folder.
        prompts: texts that are continued or shown; one may be given as it is.
        out: FILE.txt or FILE.jsonl of texts; a new folder of images; each also as a URL.
        seed: of what is drawn; the same seed gives the same.
        given: options of the model's own.

    Raises InputError: a model that does not generate, an output that exists.
    """
    _, module = answering(model, "generate")
    with output(out, TEXTS) if module.makes == "text" else image_folder(out) as place:
        own, asked = settings_of(module, given), [prompts] if isinstance(prompts, str) else list(prompts)
        with torch.inference_mode():
            made = list(module.generate(asked, own, seed=seed))
        if place is not None:
            write_made(place, asked, made, module.makes)
    return made


def image_folder(out: str | Path | None) -> contextlib.AbstractContextManager[Path | None]:
    return contextlib.nullcontext() if out is None else stores.written(out)


def write_made(place: Path, prompts: Sequence[str], made: Sequence[Any], kind: str) -> None:
    """Texts into a file, a line each (with the prompt in .jsonl); images as PNG into a folder."""
    with files.whole(place) as fresh:
        if kind != "text":
            fresh.mkdir()
            for k, one in enumerate(made):
                (one if isinstance(one, Image.Image) else Image.fromarray(np.asarray(one))).save(fresh / f"{k:05d}.png")
            return
        if place.suffix.lower() == ".txt":
            fresh.write_text("".join(text.replace("\n", " ") + "\n" for text in made), encoding="utf-8")
            return
        asked = list(prompts) if len(prompts) == len(made) else [None] * len(made)
        lines = [{"prompt": p, "text": t} if p is not None else {"text": t} for p, t in zip(asked, made, strict=True)]
        fresh.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
