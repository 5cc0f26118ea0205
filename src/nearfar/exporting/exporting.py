"""A model in the form of another library, verified before it takes its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import files, modalities, stores
from nearfar.checks import one_of
from nearfar.encoders import Encoder
from nearfar.encoders.batches import check_texts
from nearfar.errors import InputError, NearfarError
from nearfar.exporting import lossy, preparing, runtimes
from nearfar.exporting.graph import Graph, TextGraph, graph_of
from nearfar.methods.tower import Tower
from nearfar.models import TOLERANCE, VERIFY, Model, difference, open_model
from nearfar.training.settings import DataSettings

TARGETS = ("onnx", "openvino", "sentence-transformers", "timm", "safetensors")
LONG = "a longer text of many words, " * 400


@dataclass
class ExportedTower:
    """file: below the folder. difference: the largest one of a coordinate from the model's own vectors. recall: of the
    int8 file, the share of the model's 10 nearest neighbours that it finds too; bytes: of the file, and of int8's."""

    file: str
    difference: float
    bytes: int
    int8: str | None = None
    int8_bytes: int | None = None
    recall: float | None = None
    rows: int | None = None


@dataclass
class Exported:
    """Where an export lies, and what was measured of each tower."""

    path: Path | str
    to: str
    towers: dict[str, ExportedTower] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; what was not measured is left out."""
        towers = {name: {k: v for k, v in asdict(one).items() if v is not None} for name, one in self.towers.items()}
        return {"path": str(self.path), "to": self.to, "towers": towers}


def export(
    model: Any,
    to: str,
    out: str | Path,
    *,
    role: str | None = None,
    head: bool = True,
    int8: bool = False,
    data: Any = None,
    data_settings: DataSettings | None = None,
) -> Exported:
    """Writes a model for another library, and compares what that gives with the model's own vectors.

    Args:
        model: a model, its folder, or that of its run.
        to: "onnx", "openvino" (a file of each tower, with tokenizer, preprocessing.json and README.md),
            "sentence-transformers" (a text tower), "timm" (a tower of a timm encoder), "safetensors" (weights alone).
        out: a new folder, or a URL of one.
        role: whose tower; default every tower, or the first one that the target can hold.
        head: whether the head that the model keeps is part of it.
        int8: also write onnx files of 8 bits, and measure on `data` how many of the 10 nearest neighbours they find.

    Raises InputError for a folder that exists, a role that the model lacks, a part that the target cannot hold (the
    message names it) and a package that is not installed; NearfarError for vectors that differ by more than 1e-4.
    Nothing is left behind then.
    """
    one_of("to", to, TARGETS)
    if int8 and (to != "onnx" or data is None):
        raise InputError("int8 is measured, and of onnx alone.", "Use --to onnx --int8 --data DATA.")
    if data is not None and not int8:
        raise InputError("The data are what --int8 is measured on.", "Add --int8, or leave out --data.")
    with stores.written(out) as place:
        found = _exported(model, to, place, role, head, int8, data, data_settings)
    return replace(found, path=str(out)) if stores.is_url(out) else found


def _exported(
    model: Any,
    to: str,
    place: Path,
    role: str | None,
    head: bool,
    int8: bool,
    data: Any,
    data_settings: DataSettings | None,
) -> Exported:
    if to in runtimes.README:
        runtimes.needed(*(("onnx", "onnxruntime") if to == "onnx" else ("onnx", "openvino")))
    whole = open_model(model)
    if role is not None:
        whole.check_role(role)
    if not whole.roles:
        raise InputError("This model gives no vectors, so there is no tower to export.", "Keep the nearfar folder.")
    opened = (data_settings or DataSettings()).open(data) if int8 else None
    with files.refused(place):
        if to == "sentence-transformers":
            return _folder(whole, to, place, role, head, lambda one: one.save_sentence_transformer(place, role))
        if to == "timm":
            return _folder(whole, to, place, role, head, lambda one: one.save_timm(place, role))
        towers = _named(whole, role, head)
        with files.whole(place) as fresh:
            fresh.mkdir()
            found = Exported(place, to)
            write = _weights if to == "safetensors" else _graphs
            write(whole, towers, fresh, found, opened)
        return found


def _folder(
    model: Model, to: str, place: Path, role: str | None, head: bool, save: Callable[[Model], float]
) -> Exported:
    """An export that the model itself writes and verifies."""
    one = model if head else _without_heads(model)
    role = role or one.role_of("text" if to == "sentence-transformers" else "image")
    worst = save(one)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return Exported(place, to, {role: ExportedTower(".", worst, size)})


def _without_heads(model: Model) -> Model:
    bare: dict[int, Tower] = {}
    for tower in model.roles.values():
        bare.setdefault(id(tower), Tower(tower.encoder, None, kept=True).eval())
    roles = {role: bare[id(tower)] for role, tower in model.roles.items()}
    return Model(roles, model.config, model.path, model.hash)


def _named(model: Model, role: str | None, head: bool) -> dict[str, tuple[str, Tower]]:
    """Name of a file -> role and tower; roles that share one share its file."""
    roles = (model if head else _without_heads(model)).roles
    if role is not None:
        return {role.replace("/", "-"): (role, roles[role])}
    found: dict[int, str] = {}
    for name, tower in roles.items():
        if "/" not in name:
            found.setdefault(id(tower), name)
    return {name: (name, roles[name]) for name in found.values()}


def _weights(model: Model, towers: Mapping[str, tuple[str, Tower]], folder: Path, found: Exported, _: Any) -> None:
    """NAME.safetensors of each tower, and a table of what is in it."""
    import torch
    from safetensors.torch import load_file, save_file

    lines = ["# Weights of a nearfar model", "", "As `safetensors.torch.load_file` reads them. `config.json` describes "
             "the encoders and heads."]  # fmt: skip
    for name, (_, tower) in towers.items():
        state = {key: value.detach().cpu().contiguous().clone() for key, value in tower.state_dict().items()}
        path = folder / f"{name}.safetensors"
        save_file(state, path, metadata={"format": "pt"})
        again = load_file(path)
        if again.keys() != state.keys() or not all(torch.equal(again[key], state[key]) for key in state):
            raise NearfarError(f"{path.name} does not hold the weights that were written; nothing was kept.")
        lines += ["", f"## {path.name}", "", f"{sum(x.numel() for x in state.values()):,} numbers.", "",
                  "| name | shape | type |", "|---|---|---|"]  # fmt: skip
        lines += [
            f"| {key} | {' x '.join(map(str, x.shape)) or 'one number'} | {str(x.dtype).removeprefix('torch.')} |"
            for key, x in state.items()
        ]
        found.towers[name] = ExportedTower(path.name, 0.0, path.stat().st_size)
    described = {name: tower.encoder.config() for name, (_, tower) in towers.items()}
    _write_json(folder / "config.json", {"similarity": model.similarity, "encoders": described})
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _graphs(model: Model, towers: Mapping[str, tuple[str, Tower]], folder: Path, found: Exported, data: Any) -> None:
    """NAME.onnx, or NAME.xml and NAME.bin, of each tower, with all that stands before it."""
    device = model.device
    model.to("cpu")
    try:
        told = {name: _graph(model, name, *pair, folder, found, data) for name, pair in towers.items()}
    finally:
        model.to(device)
    measured = []
    for one in found.towers.values():
        measured.append(f"- `{one.file}`: differs from the model by {one.difference:.1e} at most ({TOLERANCE:g} is "
                        "refused), on its stored examples and on random inputs of other shapes")  # fmt: skip
        if one.recall is not None:
            measured.append(f"- `{one.int8}`: weights of 8 bits; finds {one.recall:.1%} of the 10 nearest neighbours "
                            f"of {one.rows} rows of {data.name}")  # fmt: skip
    _write_json(folder / "preprocessing.json", {"similarity": model.similarity, "towers": told})
    _write_json(folder / "measured.json", found.to_dict()["towers"])
    text = preparing.readme(found.to, told, measured, model.similarity, runtimes.README[found.to])
    (folder / "README.md").write_text(text, encoding="utf-8")


def _graph(
    model: Model, name: str, role: str, tower: Tower, folder: Path, found: Exported, data: Any
) -> dict[str, Any]:
    """Writes and verifies one tower; what preprocessing.json says of it."""
    graph = graph_of(role, tower, model.similarity)
    items = None if data is None else lossy.items_for(data, role, tower.encoder)
    onnx = folder / f"{name}.onnx"
    runtimes.write_onnx(graph, onnx)
    path, run = onnx, runtimes.run_onnx
    if found.to == "openvino":
        path, run = folder / f"{name}.xml", runtimes.run_openvino
        runtimes.write_openvino(onnx, path)
        onnx.unlink()
    call, inputs = run(path)
    said = {"file": path.name, "inputs": inputs} | preparing.describe(graph, name, folder)
    worst = _verify(model, role, graph, said, folder, call, found.to)
    made = ExportedTower(path.name, worst, sum(one.stat().st_size for one in folder.glob(f"{name}.*")))
    found.towers[name] = made
    if items is not None:
        small = folder / f"{name}.int8.onnx"
        runtimes.quantise(onnx, small, tower.encoder.modality)
        made.int8, made.int8_bytes, made.rows = small.name, small.stat().st_size, len(items)
        made.recall = lossy.recall(_all(call, graph, items), _all(runtimes.run_onnx(small)[0], graph, items))
        said["int8"] = small.name
    return said


def _verify(
    model: Model, role: str, graph: Graph, said: dict[str, Any], folder: Path, call: runtimes.Run, to: str
) -> float:
    """The largest difference from the model's vectors, on its stored examples and on random inputs of other shapes.
    Raises NearfarError above 1e-4."""
    items = stored_examples(model, role, graph.tower.encoder)
    pairs = [(_all(call, graph, items), _own(model, role, graph, items))]
    if isinstance(graph, TextGraph):
        check_texts(items)
        preparing.check_tokens(graph, said, folder, [*items, LONG])
    pairs += [(call(feed), graph.run(feed)) for feed in graph.draw(np.random.default_rng(1))]
    worst = max(difference(theirs, ours) for theirs, ours in pairs)
    if not worst <= TOLERANCE:
        raise NearfarError(
            f"The tower '{role}' gives other vectors in {to} (largest difference {worst:.2g}); nothing was written."
        )
    return worst


def stored_examples(model: Model, role: str, encoder: Encoder) -> list[Any]:
    """The items of a role in verify.json, or where there are none those that a model of its kind stores."""
    kind = modalities.get(encoder.modality)
    proof = None if model.path is None else model.path / "verify.json"
    if proof is None or not proof.is_file():
        return list(kind.examples(encoder))[:16]
    with files.reading(proof, "Copy the whole model folder again, or train anew."):
        examples = files.read_json(proof, VERIFY, "Copy the whole model folder again, or train anew.")["examples"]
        mine = [name for name, tower in model.roles.items() if tower.encoder is encoder and name in examples]
        name = role if role in examples else next(iter(mine), None)
        return list(kind.examples(encoder) if name is None else kind.read(examples[name]["inputs"], encoder))[:16]


def _own(model: Model, role: str, graph: Graph, items: list[Any]) -> np.ndarray:
    """The vectors that the model itself gives, without its head where the graph has none."""
    bare = graph.tower.head is None and model.roles[role].head is not None
    return (_without_heads(model) if bare else model).embed(items, role)


def _all(call: runtimes.Run, graph: Graph, items: list[Any], batch: int = 32) -> np.ndarray:
    return np.concatenate([call(graph.feed(items[i : i + batch])) for i in range(0, len(items), batch)])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
