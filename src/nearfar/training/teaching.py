"""The vectors of a frozen teacher: of a model, computed once and kept in the cache, or of a file that `embed` wrote."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearfar import files
from nearfar.errors import InputError
from nearfar.indexing import outputs
from nearfar.methods.distilling import Distiller, check_taught, check_widths
from nearfar.models import inner_folder, open_model
from nearfar.training.modelled import ModelEmbedder

if TYPE_CHECKING:
    from nearfar.methods.base import Method
    from nearfar.sources.data import Data
    from nearfar.training.settings import TrainSettings

MEND = "Name the folder of a model, or a file that `nearfar embed` wrote (.parquet, .npy)."
KINDS = (".parquet", ".npy")


def check_teacher(settings: TrainSettings) -> None:
    """Raises InputError, before anything is read, for a teacher that is not there, and for options of one where none is
    named."""
    if settings.distil_from is None:
        fields = [one for one in dataclasses.fields(settings) if one.name.startswith("distil_")]
        given = next((one.name for one in fields if getattr(settings, one.name) != one.default), None)
        if given is not None:
            raise InputError(f"--{given.replace('_', '-')} says how a teacher is learned from, and none is named.",
                             "Add --distil-from FOLDER.")  # fmt: skip
        return
    for one in settings.distil_from.split(","):
        place = inner_folder(one.strip())
        if not (place.is_dir() or (place.is_file() and place.suffix in KINDS)):
            raise InputError(f"--distil-from: there is no model and no file of vectors at '{one.strip()}'.", MEND)


def distiller_of(
    method: Method, data: Data, rows: np.ndarray, settings: TrainSettings, cache: Path | None
) -> Distiller:  # fmt: skip
    """The teacher's vectors of the training rows, for the roles that a method reads. Raises InputError where it has
    none of them, or where the method cannot learn from it."""
    assert settings.distil_from is not None
    width = check_taught(method)
    roles = list(dict.fromkeys((method.reads[0], method.reads[-1])))
    sources = [inner_folder(one.strip()) for one in settings.distil_from.split(",")]
    if sources[0].is_dir():
        found = of_model(sources[0], data, roles, rows, cache)
    else:
        found = of_files(sources, data, roles, rows)
    check_widths(settings.distil_loss, width, next(iter(found.values())).shape[1])
    places = torch.full((int(rows.max()) + 1,), -1)
    places[torch.from_numpy(rows)] = torch.arange(len(rows))
    vectors = {role: torch.from_numpy(np.array(one, np.float32)) for role, one in found.items()}
    weight, temperature = settings.distil_weight, settings.distil_temperature
    return Distiller(vectors, places, settings.distil_loss, weight, temperature)


def of_model(
    source: Path, data: Data, roles: list[str], rows: np.ndarray, cache: Path | None
) -> dict[str, np.ndarray]:  # fmt: skip
    """The vectors of a model, in evaluation mode and without views, computed once for a model and the rows."""
    model = open_model(source)
    embed = ModelEmbedder(model, data)
    lacking = next((role for role in roles if not embed.has(role)), None)
    if lacking is not None:
        raise InputError(f"--distil-from: the teacher embeds {', '.join(model.roles) or 'nothing'}, not '{lacking}'.",
                         "Name a model of the kind of data that is trained on.")  # fmt: skip
    found: dict[str, np.ndarray] = {}
    for role in roles:
        key = hashlib.sha256(f"{model.hash}-{data.hash}-{role}-{rows.tobytes()}".encode("latin1")).hexdigest()[:32]
        path = None if cache is None else cache / f"teacher-{key}.npy"
        stored = None if path is None else files.load_array(path)
        found[role] = embed(role, rows) if stored is None else np.asarray(stored)
        if path is not None and stored is None:
            with files.writing(path):
                files.save_array(path, found[role])
    return found


def of_files(sources: list[Path], data: Data, roles: list[str], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The vectors that files hold under the keys of the rows: one file for each role, in the order in which the method
    reads them. Raises InputError for another number of files, and for a row that a file lacks."""
    if len(sources) != len(roles):
        raise InputError(f"--distil-from: {len(sources)} files of vectors for {', '.join(roles)}.",
                         "Name one for each, divided by a comma.")  # fmt: skip
    return {role: by_key(source, [data.keys[row] for row in rows]) for role, source in zip(roles, sources, strict=True)}


def by_key(source: Path, keys: list[str]) -> np.ndarray:
    """The vectors of an output of `embed` in the order of some keys, (n, d)."""
    place: Any = outputs.output(source)
    place.read()
    held = {key: n for n, key in enumerate(place.known["key"].to_pylist())}
    missing = next((key for key in keys if key not in held), None)
    if missing is not None:
        raise InputError(f"'{source}' has no vector of the training row '{missing}'.",
                         "Embed the data whole: nearfar embed MODEL DATA --out FILE.")  # fmt: skip
    return place.array()[[held[key] for key in keys]]
