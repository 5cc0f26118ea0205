"""Encoders as code of torch.compile while they train (--compile)."""

import re

import pytest
import torch
from safetensors.torch import load_file

from nearfar.errors import InputError
from nearfar.training import shaping
from nearfar.training.engine import fit

PLAN = {"steps": 3, "batch_size": 16, "val_every": 2, "device": "cpu", "progress": False, "limit": 80}
PLAN |= {"optimiser": "sgd", "lr": 0.05}


@pytest.mark.slow
@pytest.mark.skipif(not shaping.has_compiler(), reason="--compile is refused where there is no C++ compiler")
def test_compiled_equals_uncompiled(tmp_path, monkeypatch):
    """A teacher and its queue too; what is measured is not compiled."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    asked = []
    compile_encoders = shaping.compile_encoders
    monkeypatch.setattr("nearfar.training.building.compile_encoders", lambda m: asked.append(compile_encoders(m)))
    for name, compiled in (("plain", False), ("compiled", True)):
        options = {"negatives": {"name": "queue", "size": 32}, "momentum": 0.9}
        fit("simclr", "breast-cancer", out=tmp_path / name, compile=compiled, **PLAN, **options)
        assert (counters["stats"]["unique_graphs"] > 0) == compiled
    assert len(asked) == 1
    assert counters["stats"]["unique_graphs"] == 2, "student and teacher in training, nothing else"
    a, b = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("plain", "compiled"))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"freeze": True}, "makes the training of encoders faster"),
        ({"devices": 2, "strategy": "fsdp"}, "--strategy fsdp divides them"),
        ({}, "needs a C++ compiler"),
    ],
)
def test_what_cannot_be_compiled(options, what, tmp_path, monkeypatch):
    monkeypatch.setattr(shaping, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CXX", raising=False)
    if options.get("freeze"):
        monkeypatch.setattr(shaping, "check_compiler", lambda settings: None)
    with pytest.raises(InputError, match=re.escape(what)):
        fit("simclr", "breast-cancer", out=tmp_path / "run", compile=True, **PLAN, **options)
    assert not (tmp_path / "run").exists()
