"""`nearfar export`: a model in the form of another library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nearfar import options
from nearfar.cli.common import Output, emit, read, speaker
from nearfar.errors import InputError
from nearfar.training.settings import DataSettings

TARGETS = "onnx, openvino, sentence-transformers, timm or safetensors"


@dataclass
class ExportOptions:
    """What is written, and where.

    Args:
        to: onnx, openvino, sentence-transformers, timm, or safetensors (weights alone).
        out: a new folder, or a URL (s3://...) of one; default that of the model with the target behind its name:
            runs/notes/model-onnx.
        role: whose tower; default all of them, or the first one that the target can hold.
        head: whether the head that the model keeps is part of it (--head false).
        int8: also write onnx files with weights of 8 bits, and measure on --data how many nearest neighbours they find.
        data: what --int8 is measured on; the options of its columns stand below.
    """

    to: str | None = None
    out: str | None = None
    role: str | None = None
    head: bool = True
    int8: bool = False
    data: str | None = None


def export(model: str, given: ExportOptions, data_settings: Any) -> Any:
    """Exports the model of a folder. Raises InputError where no target is named."""
    if given.to is None:
        raise InputError("To which form?", f"Add --to {TARGETS}.")
    from nearfar import exporting
    from nearfar.models import inner_folder
    from nearfar.stores import is_url, named

    place = inner_folder(model)
    where = named(place) if is_url(model) else place.with_name(place.resolve().name)
    out = given.out or f"{where}-{given.to}"
    return exporting.export(place, given.to, out, role=given.role, head=given.head, int8=given.int8, data=given.data,
                            data_settings=data_settings)  # fmt: skip


def show(done: Any, say: Callable[[str], None]) -> None:
    """What was written and measured, a line a tower."""
    say(f"{done.path}: for {done.to}")
    for name, one in done.towers.items():
        same = "every number equal" if done.to == "safetensors" else f"largest difference {one.difference:.1e}"
        say(f"  {name}: {one.file}, {_size(one.bytes)}, {same}")
        if one.recall is not None:
            say(f"  {name}: {one.int8}, {_size(one.int8_bytes)}, recall@10 {one.recall:.3f} against the whole model on "
                f"{one.rows} rows")  # fmt: skip


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def run_export(words: list[str]) -> None:
    targets = [ExportOptions, Output, DataSettings]
    places, checked = read(words, targets, (1,), "nearfar export MODEL --to FORM")
    done = export(places[0], options.build(ExportOptions, checked), options.build(DataSettings, checked))
    emit(done.to_dict()) if checked.json else show(done, speaker(False))
