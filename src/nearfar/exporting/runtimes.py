"""Graphs as files of other runtimes, and how these run them: onnxruntime, openvino."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from nearfar.encoders.quiet import quiet
from nearfar.errors import InputError, NearfarError, install
from nearfar.exporting.graph import INSTEAD, OUTPUT, Graph

OPSET = 18
Feed = dict[str, np.ndarray]
Run = Callable[[Feed], np.ndarray]
README = {
    "onnx": ("onnxruntime", "import onnxruntime", """\
session = onnxruntime.InferenceSession(said["file"])
vectors = session.run(None, {name: x for name, x in prepare(items).items() if name in said["inputs"]})[0]"""),
    "openvino": ("openvino", "import openvino", """\
model = openvino.Core().compile_model(said["file"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
vectors = model({name: x for name, x in prepare(items).items() if name in said["inputs"]})[0]"""),
}  # fmt: skip


def needed(*packages: str) -> None:
    """Raises InputError where a package is not installed."""
    for name in packages:
        try:
            quiet_openvino() if name == "openvino" else importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"Exporting needs the package '{name}', which is not installed.", install("export")
            ) from error


def write_onnx(graph: Graph, path: Path) -> None:
    """The graph as ONNX, traced with random inputs. Raises NearfarError where torch cannot write it."""
    first = next(graph.draw(np.random.default_rng(0)))
    given = tuple(torch.from_numpy(first[name]) for name in graph.names)
    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing: what it could get wrong shows on other shapes
            # traced, not compiled (dynamo): encoders that ask whether a batch is padded have no graph there
            torch.onnx.export(graph, given, path, dynamo=False, input_names=list(graph.names), output_names=[OUTPUT],
                              dynamic_axes=graph.axes | {OUTPUT: {0: "batch"}}, opset_version=OPSET)  # fmt: skip
    except Exception as error:
        part = type(graph.tower.encoder).__name__
        raise NearfarError(f"torch cannot write the encoder {part} as ONNX: {str(error).splitlines()[0][:300]}",
                           INSTEAD) from error  # fmt: skip


def run_onnx(path: Path) -> tuple[Run, list[str]]:
    """The file in onnxruntime, and the names of its inputs."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4  # what goes wrong is told by the error
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda feed: np.asarray(session.run(None, {name: feed[name] for name in names})[0]), names


def quiet_openvino() -> Any:
    """openvino without the package that reports over the network that it is used (on import and in convert_model)."""
    sys.modules.setdefault("openvino_telemetry", cast(Any, None))  # as if it were not installed: openvino does without
    return importlib.import_module("openvino")


def write_openvino(onnx: Path, path: Path) -> None:
    """The .xml and .bin of an ONNX file, weights in full precision."""
    openvino = quiet_openvino()
    openvino.save_model(openvino.Core().read_model(str(onnx)), str(path), compress_to_fp16=False)


def run_openvino(path: Path) -> tuple[Run, list[str]]:
    """The file in openvino on the CPU, in float32, and the names of its inputs."""
    openvino = quiet_openvino()
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    names = [one.get_any_name() for one in model.inputs]
    return lambda feed: np.asarray(model({name: feed[name] for name in names})[0]), names


def quantise(onnx: Path, path: Path, kind: str) -> None:
    """An ONNX file with weights of 8 bits; what flows between them is quantised while it runs. Convolutions take
    unsigned weights, the only ones that onnxruntime has them for."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantize_dynamic(str(onnx), str(path), weight_type=QuantType.QUInt8 if kind == "image" else QuantType.QInt8)
    finally:
        logging.getLogger().setLevel(level)
