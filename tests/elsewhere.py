"""A stand-in for an accelerator: tensors that say they are on "cuda" and keep their numbers in ordinary memory.

What fails on a real device for want of the right one fails here too: tensors of two devices in one operation, numpy
straight from the device. So the devices of a piece of code can be checked where there is no accelerator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("cuda", 0)
_aten = torch.ops.aten
ACROSS = {_aten.copy_.default, _aten._to_copy.default}
INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}


class Elsewhere(Tensor):
    """A tensor of the stand-in; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            dtype=held.dtype,
            storage_offset=held.storage_offset(),
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    @property
    def device(self):
        return DEVICE

    @property
    def is_cuda(self):
        return True

    def numpy(self, **_: Any):
        raise TypeError("numpy cannot read a tensor of the stand-in device")

    __array__ = numpy

    def tolist(self):
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = dict(kwargs or {})
        if func not in ACROSS:
            one_device(func, args[:1] if func in INDEXED else args, kwargs)
        if torch.device(kwargs.get("device") or "cpu").type == "cuda":
            kwargs["device"] = None
        held_args, held_kwargs = tree_map_only(Elsewhere, lambda x: x.held, (args, kwargs))
        out = tree_map_only(Tensor, Elsewhere, func(*held_args, **held_kwargs))
        return return_and_correct_aliasing(func, args, kwargs, out)


def one_device(func: Any, args: Any, kwargs: Any) -> None:
    """Raises where an operation is given tensors of ordinary memory too. Single numbers may come from there; so may the
    zeros that autograd puts in place of a missing gradient."""
    strange = [
        x
        for x in tree_flatten((args, kwargs))[0]
        if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.dim() > 0
    ]
    if torch._C._current_autograd_node() is not None:
        strange = [x for x in strange if x.any()]
    if strange:
        raise RuntimeError(f"{func}: tensors on two devices, {DEVICE} and cpu {[tuple(x.shape) for x in strange]}")


class Devices(TorchFunctionMode):
    """What is asked for on "cuda" becomes a tensor of the stand-in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = dict(kwargs or {})
        if func is Tensor.cpu:
            return home(args[0])
        if func is Tensor.to:
            return self.to(*args, **kwargs)
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            return away(func(*args, **(kwargs | {"device": None})))
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return away(func(*args, **kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def to(x: Tensor, *given: Any, device: Any = None, **kwargs: Any) -> Tensor:
        wanted, rest = device or x.device, []
        for value in given:
            if isinstance(value, (str, torch.device)):
                wanted = value
            elif isinstance(value, Tensor):
                wanted, rest = value.device, [*rest, value.dtype]
            else:
                rest.append(value)
        made = Tensor.to(x, *rest, **kwargs) if rest or kwargs else x
        return away(made) if torch.device(wanted).type == "cuda" else home(made)


class Numbers(torch.Generator):
    """A generator that says it is on the stand-in."""

    def __new__(cls, device: Any = "cpu"):
        made = super().__new__(cls)
        made.where = torch.device(device)
        return made

    @property
    def device(self):
        return self.where


def away(x: Tensor) -> Tensor:
    return x if isinstance(x, Elsewhere) else Elsewhere(x)


def home(x: Tensor) -> Tensor:
    return x.held if isinstance(x, Elsewhere) else x


def moved(module: nn.Module) -> None:
    """Puts the parameters and buffers of a module on the stand-in."""
    for part in module.modules():
        if hasattr(part, "_device"):  # Lightning keeps it apart from the parameters
            part._device = DEVICE
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(away(p.detach()), p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = away(b)


@contextlib.contextmanager
def stand_in() -> Iterator[torch.device]:
    """Within it "cuda" is the stand-in. Yields its device."""
    run = torch.autograd._engine_run_backward

    def backward(*args: Any, **kwargs: Any):
        with Devices():  # the outer one is off while it handles the call
            return run(*args, **kwargs)

    with Devices(), mock.patch("torch.Generator", Numbers), mock.patch("torch.autograd._engine_run_backward", backward):
        yield DEVICE
