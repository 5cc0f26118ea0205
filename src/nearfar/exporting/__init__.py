"""`nearfar export`: a model for other libraries, which gives the same vectors there.

model -> graph.py (a tower as a function of tensors) -> runtimes.py (onnx, openvino) -> verified -> folder
         preparing.py (tokenizer.json, preprocessing.json, README.md)                   exporting.py
         lossy.py (what 8 bits cost)
"""

from typing import TYPE_CHECKING

from nearfar.lazy import exports

if TYPE_CHECKING:  # imported when first used
    from nearfar.exporting.exporting import TARGETS, Exported, ExportedTower, export

__getattr__ = exports(__name__)

__all__ = ["TARGETS", "Exported", "ExportedTower", "export"]
