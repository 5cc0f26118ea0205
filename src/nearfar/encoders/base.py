"""What every encoder promises: inputs to one vector each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar import files, modalities
from nearfar.errors import InputError

UNSAFE = "Weights are read from safetensors files, or from torch files that hold tensors only."


class Features(NamedTuple):
    """What a frozen encoder made of a batch, float (n, dim): a tower takes them as they are."""

    values: Tensor

    def to(self, device: torch.device | str) -> Features:
        return Features(self.values.to(device))


class Joint(NamedTuple):
    """The space in which the vectors of several encoders of one model are compared: its name, how many numbers a vector
    has there, and the head that leads into it (None: the encoder does itself)."""

    space: str
    dim: int
    head: nn.Module | None


class Encoder(nn.Module):
    """Maps a prepared batch to vectors (n, dim).

    modality: name of its kind of data. dim: length of the vectors. pretrained: whether its weights come from an earlier
    training. joint: of an encoder that came with the others of its model, their common space. `config()` and the files
    written by `save_files` are enough for `encoders.from_config` to build the same encoder without its weights.
    """

    modality: ClassVar[str]
    dim: int
    pretrained: bool = False
    _joint: tuple[Joint, ...] = ()  # in a tuple, so that the head is not a part of the encoder
    transductive: bool = False
    """Whether it sees items through each other, those of validation and test too."""
    domain_names: Sequence[str] = ()
    """Domains of which each item is to name one, where the encoder takes them apart."""
    recomputed: bool = False
    """Whether its blocks are computed again in the backward pass."""
    resting: tuple[nn.Module, ...] = ()
    """Its parts that stay in evaluation mode, whatever mode it is in."""
    frozen_stages: tuple[int, int] | None = None
    """How many of its stages are frozen, and how many there are."""

    @property
    def joint(self) -> Joint | None:
        return self._joint[0] if self._joint else None

    @joint.setter
    def joint(self, value: Joint | None) -> None:
        self._joint = () if value is None else (value,)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.resting:
            part.eval()
        return self

    @property
    def named(self) -> str:
        """ "the image encoder 'small'"."""
        return f"the {self.modality} encoder '{self.config().get('name', type(self).__name__)}'"

    def ordered_blocks(self) -> Sequence[nn.Module]:
        """The blocks that an input passes one after the other; none where it has no such order."""
        return ()

    def stages(self, coarse: bool = False) -> list[list[nn.Parameter]]:
        """Its parameters by depth: what embeds, each of N blocks, what stands behind them (`nearfar.encoders.depth`);
        none where it has no blocks. coarse: blocks that are grouped in stages by their architecture count as these."""
        from nearfar.encoders.depth import parted

        return parted(self, self.ordered_blocks())

    def variants(self) -> Mapping[str, Encoder]:
        """Name -> this encoder as it gives another vector of an item: of a domain, say, where items name none."""
        return {}

    def prepare(self, items: Any) -> Any:
        """Raw items (images, paths; texts; rows of numbers) -> the input of `forward`."""
        raise NotImplementedError

    def recompute(self) -> bool:
        """From now on keep of each block its input alone, and compute the block again in the backward pass: less
        memory, more time, the same gradients. Returns whether the encoder can."""
        return False

    def config(self) -> dict[str, Any]:
        """A JSON-able description."""
        raise NotImplementedError

    def save_files(self, folder: Path) -> None:
        """Write what `from_config` needs beside the configuration (a tokenizer, say)."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def role(self) -> str:
        """The first column of its kind of data, which a method of single items reads."""
        return modalities.get(self.modality).roles[0]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """The modules in evaluation mode, and then each module within them as it was."""
    modes = [(one, one.training) for module in modules for one in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """A module in training without what is random in it: all but its batch norms in evaluation mode, then as before."""
    changed = [one for one in module.modules() if one.training and not isinstance(one, _BatchNorm)]
    for one in changed:
        one.training = False
    try:
        yield
    finally:
        for one in changed:
            one.training = True


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file, which is read without running any code of it.

    Raises InputError for a missing file, a file that is not one, and a pickle with more than tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no weights file {path}.", UNSAFE)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be read as weights: {first}.", UNSAFE) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds something else than named tensors.", UNSAFE)
    return state


def find_model(folder: str | Path) -> Path | None:
    """Where a nearfar model lies: a folder, or in that of its run; None where there is none."""
    for place in (Path(folder), Path(folder) / "model", Path(folder) / "best"):
        if (place / "model.safetensors").is_file() and (place / "config.json").is_file():
            with files.reading(place / "config.json", "Copy the folder again."):
                said = json.loads((place / "config.json").read_text("utf-8"))
            if isinstance(said, dict) and "towers" in said:
                return place
    return None


def model_folder(folder: str | Path) -> Path:
    """`find_model`; raises InputError for a folder that is no model."""
    place = find_model(folder)
    if place is None:
        raise InputError(f"{folder} is not a folder of a nearfar model.", "Give such a folder, or a file of weights.")
    return place


def tower_of_kind(folder: str | Path, modality: str) -> tuple[Path, str, dict[str, Any]]:
    """Where a nearfar model (or that of a run) lies, the name of its first tower of a modality, and what is said of
    that tower's encoder.

    Raises InputError for a folder that is no model, or one without such an encoder.
    """
    place = model_folder(folder)
    mend = "Give the folder of a nearfar model, or a file of weights."
    towers = files.read_json(place / "config.json", {"towers": dict}, mend)["towers"]
    with files.reading(place / "config.json", mend):
        name = next((name for name, tower in towers.items() if tower["encoder"].get("modality") == modality), None)
    if name is None:
        raise InputError(f"The model in {folder} has no {modality} encoder.", f"It embeds {', '.join(towers)}.")
    return place, name, towers[name]["encoder"]


def tower_tensors(folder: str | Path, modality: str) -> dict[str, Tensor]:
    """The tensors of the encoder that `tower_of_kind` finds."""
    place, name, _ = tower_of_kind(folder, modality)
    return _under(f"{name}.encoder.", place)


def load_tower(folder: str | Path, role: str, encoder: Encoder, head: nn.Module | None) -> None:
    """Weights of a role's encoder, and of its head where there is one, from a nearfar model's folder.

    Raises InputError for a folder that is no model or has no such role, for an encoder that reads its input in another
    way (another tokenizer, say), and for tensors that do not fit.
    """
    place = model_folder(folder)
    known = files.read_json(place / "config.json", {"roles": dict}, "Give the folder of a nearfar model.")["roles"]
    if role not in known:
        raise InputError(f"The model in {folder} has no tower of '{role}'.", f"It embeds {', '.join(known)}.")
    with tempfile.TemporaryDirectory() as made:
        encoder.save_files(Path(made))
        for path in sorted(p for p in Path(made).rglob("*") if p.is_file()):
            theirs = place / known[role] / path.relative_to(made)
            if not theirs.is_file() or theirs.read_bytes() != path.read_bytes():
                raise InputError(f"The {encoder.modality} encoder of {folder} has another {path.name}.",
                                 "Name an encoder of the same kind, made of the same data.")  # fmt: skip
    load_into(encoder, _under(f"{known[role]}.encoder.", place), place)
    if head is not None:
        load_into(head, _under(f"{known[role]}.head.", place), place)


def _under(prefix: str, place: Path) -> dict[str, Tensor]:
    state = load_tensors(place / "model.safetensors")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def load_into(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load every tensor of `module`; further tensors of the file (a classifier, say) are left out.

    Raises InputError that names what is missing or has another shape.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    other = [key for key, value in wanted.items() if key in state and state[key].shape != value.shape]
    if missing or other:
        said = (
            f"{len(missing)} tensors are missing, e.g. '{missing[0]}'"
            if missing
            else f"'{other[0]}' has shape {tuple(state[other[0]].shape)}, not {tuple(wanted[other[0]].shape)}"
        )
        raise InputError(
            f"The weights in {source} do not fit the encoder: {said}.",
            "Name the architecture (and input size) that they were trained with.",
        )
    module.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
