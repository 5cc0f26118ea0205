"""nearfar: contrastive learning on your own data.

import nearfar

run = nearfar.fit("simclr", "my/images")          # or None: a method that fits the data
table = nearfar.compare("my/images")              # several methods, fairly, with intervals
model = nearfar.load(run.path / "model")
vectors = model.embed(images)
loss = nearfar.losses.info_nce(query, key)          # the losses need nothing else of the library
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_CALLS = {
    "compare": ("nearfar.training.comparing", "compare"),
    "data": ("nearfar.sources", "open_data"),
    "describe_method": ("nearfar.methods.registry", "describe"),
    "diagnose": ("nearfar.using", "diagnose"),
    "embed": ("nearfar.using", "embed"),
    "evaluate": ("nearfar.using", "evaluate"),
    "explore": ("nearfar.exploring", "explore"),
    "export": ("nearfar.exporting", "export"),
    "fit": ("nearfar.training.engine", "fit"),
    "generate": ("nearfar.answering", "generate"),
    "list_methods": ("nearfar.methods.registry", "list_methods"),
    "load": ("nearfar.models", "load"),
    "predict": ("nearfar.answering", "predict"),
    "report": ("nearfar.using", "report"),
    "search": ("nearfar.searching", "search"),
    "Searcher": ("nearfar.searching", "Searcher"),
    "InputError": ("nearfar.errors", "InputError"),
    "NearfarError": ("nearfar.errors", "NearfarError"),
}
_PACKAGES = (
    "encoders",
    "evaluation",
    "exporting",
    "heads",
    "indexing",
    "losses",
    "methods",
    "models",
    "negatives",
    "reporting",
    "similarity",
    "sources",
    "training",
    "views",
)

__all__ = [*_CALLS, *_PACKAGES]

if TYPE_CHECKING:
    from nearfar.answering import generate, predict
    from nearfar.errors import InputError, NearfarError
    from nearfar.exploring import explore
    from nearfar.exporting import export
    from nearfar.methods.registry import describe as describe_method
    from nearfar.methods.registry import list_methods
    from nearfar.models import load
    from nearfar.searching import Searcher, search
    from nearfar.sources import open_data as data
    from nearfar.training.comparing import compare
    from nearfar.training.engine import fit
    from nearfar.using import diagnose, embed, evaluate, report


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        module, attribute = _CALLS[name]
        value = getattr(importlib.import_module(module), attribute)
    elif name in _PACKAGES:
        value = importlib.import_module(f"nearfar.{name}")
    else:
        raise AttributeError(f"module 'nearfar' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_CALLS, *_PACKAGES])
