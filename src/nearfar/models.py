"""A model is a folder: safe weights, a readable configuration, tokenizer files, a model card, and a proof of itself.

save_model("my-model", {"text": encoder}, {"method": "contriever"}, card)
model = nearfar.load("my-model")
vectors = model.embed_texts(["a cat", "a dog"])       # float32 (2, d), of length 1 for cosine models

my-model/
  model.safetensors     weights of all towers
  config.json           format, similarity, roles, towers with their preprocessing, and what the caller adds
  text/                 tokenizer and configuration files of the tower "text"
  training-rows.safetensors  hashes of the items that it was trained on
  verify.json           hashes of the files; example inputs with their vectors
  README.md             model card
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from nearfar import encoders, files, heads, modalities, trained
from nearfar.checks import PositiveInt, check, checked
from nearfar.encoders import Encoder, Frozen
from nearfar.encoders.base import load_into, load_tensors
from nearfar.encoders.lora import merged
from nearfar.encoders.quiet import quiet
from nearfar.encoders.stored import noise_images
from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.methods.tower import Tower, with_heads
from nearfar.stores import Store, below, fetched, is_url, local

FORMAT = 1
SIMILARITIES = ("cosine", "dot")
TOLERANCE = 1e-4  # up to this (relative) difference, stored and recomputed vectors count as equal
CONFIG = {"format": int, "dim": int, "roles": [str], "towers": [dict]}
VERIFY = {"files": [str], "examples": [dict]}
DAMAGED = "Copy the whole model folder again, or train anew."
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".h5", ".msgpack")
ANSWERS = "inference."  # the tensors of what a model answers beside vectors
_RESERVED = ("format", "nearfar", "similarity", "dim", "roles", "towers", "inference")

Progress = Callable[[int, int], None]


class Model:
    """Vectors of items from the towers of a model folder, or of a training that has just ended.

    roles: which tower each role of the data uses; several roles may share one.
    similarity: "cosine" (vectors come out with length 1) or "dot" (as they are).
    hash: hex digest of weights, configuration and tokenizer files; empty for a model that was never saved.
    """

    def __init__(
        self,
        roles: Mapping[str, Tower],
        config: Mapping[str, Any],
        path: Path | None = None,
        digest: str = "",
        answers: Mapping[str, torch.Tensor] | None = None,
    ):
        self.roles, self.config, self.path, self.hash = with_variants(roles), dict(config), path, digest
        self.similarity: str = self.config.get("similarity", "cosine")
        self._answers, self._inference = answers, cast(Any, None)

    @property
    def inference(self) -> Any:
        """What the model answers beside vectors (`nearfar.methods.Inference`); None where it does not.

        Raises InputError where the method that knows how is not installed, or the folder does not hold what it needs.
        """
        if self._inference is None and self.config.get("inference") is not None:
            from nearfar import methods

            cls, source = methods.get(str(self.config["method"])), (self.path or Path(".")) / "config.json"
            with files.reading(source, DAMAGED):
                made = cls.restore_inference(self.config["inference"], self.roles)
            load_into(made, dict(self._answers or {}), source.with_name("model.safetensors"))
            self._inference = made.to(self.device).eval()
        return self._inference

    @property
    def measured_by(self) -> str | None:
        """The task that measures what it answers (`Method.measured_by`); None where its method names none."""
        from nearfar import methods

        slug = str(self.config.get("method"))
        return methods.get(slug).measured_by if "inference" in self.config and slug in methods.slugs() else None

    @property
    def device(self) -> torch.device:
        """Where its towers are."""
        return next((tower.encoder.device for tower in self.roles.values()), torch.device("cpu"))

    @property
    def variants(self) -> list[str]:
        """Names of the further vectors that it gives of one input."""
        return variants_of(self.roles)

    @property
    def modalities(self) -> list[str]:
        """The kinds of data that it embeds."""
        return sorted({tower.encoder.modality for tower in self.roles.values()})

    @property
    def dim(self) -> int:
        """Length of the vectors; 0 for a model that gives none."""
        return int(self.config["dim"])

    @property
    def dims(self) -> list[int]:
        """Widths, the whole first, at which the first numbers of its vectors were trained to be vectors; none where it
        was not trained so."""
        return list(self.config.get("dims", ()))

    def truncated(self, dims: int) -> "Model":
        """The model as it gives the first `dims` numbers of every vector, of length 1 by themselves for cosine models;
        weights are shared. Raises InputError for more numbers than there are."""
        check("dims", dims, PositiveInt, "argument")
        if dims > self.dim:
            raise InputError(f"The vectors of this model have {self.dim} numbers. Got dims {dims}.",
                             f"Use {self.dim} or less.")  # fmt: skip
        made = copy.copy(self)
        made.roles = {role: Tower(one.encoder, heads.Prefix(one.head, dims), True).eval()
                      for role, one in self.roles.items()}  # fmt: skip
        made.config = self.config | {"dim": dims}
        return made

    @property
    def training_rows(self) -> trained.Known | None:
        """Hashes of the items that it was trained on; None where its folder does not hold them."""
        return None if self.path is None else trained.read(self.path)

    def to(self, device: torch.device | str) -> "Model":
        """Move all towers. Returns the model itself."""
        for tower in self.roles.values():
            tower.to(device)
        if self._inference is not None:
            self._inference.to(device)
        return self

    def embed(
        self,
        items: Sequence[Any] | np.ndarray,
        role: str | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
        variant: str | None = None,
    ) -> np.ndarray:
        """float32 (n, d) of images (PIL, arrays, paths), texts, rows of numbers..., in their order.

        variant: which of the vectors of one input, where the model gives several (`variants`).

        role: whose tower to use. None: by what the items are; in a model of texts and images, strings are texts, and
        paths (`pathlib.Path`) and images are images. progress: called with (done, all) after each batch.
        """
        if isinstance(items, str | Path | bytes | Mapping) or not hasattr(items, "__len__"):
            raise InputError(
                f"embed takes a list of items, not one ({type(items).__name__}).", "Write model.embed([item])."
            )
        check("batch_size", batch_size, PositiveInt, "argument")
        tower = self._tower(role, None if role else self._modality(items), variant)
        made = encoders.vectors(tower.encoder, items, batch_size, progress, tower.head)
        endless = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", made, made)))
        if len(endless):
            raise InputError(f"The vector of item {endless[0]} is not finite, or too long for float32.",
                             "Look at the item: it may hold numbers far from those of training.")  # fmt: skip
        return _unit(made) if self.similarity == "cosine" else made

    def embed_texts(
        self, texts: Sequence[str], role: str | None = None, batch_size: int = 64, progress: Progress | None = None
    ) -> np.ndarray:
        """float32 (n, d) of texts; InputError for a model without a text tower."""
        return self.embed(texts, role or self.role_of("text"), batch_size, progress)

    def embed_images(
        self,
        images: Sequence[Any] | np.ndarray,
        role: str | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """float32 (n, d) of images: PIL, uint8 arrays (H, W, 3), paths, or one uint8 batch (n, 3, H, W)."""
        return self.embed(images, role or self.role_of("image"), batch_size, progress)

    def verify(self) -> float:
        """Embed the stored examples again; the largest difference from the stored vectors (relative above 1).

        Raises NearfarError where it is above 1e-4: this machine does not reproduce the model.
        """
        if self.path is None:
            raise InputError("Only a model that was loaded from a folder can be verified.")
        proof = self.path / "verify.json"
        if encoders.is_foreign(self.path):
            raise InputError(f"{self.path} was written by another library: it holds no examples to verify.")
        examples, worst = files.read_json(proof, VERIFY, DAMAGED)["examples"], 0.0
        with files.reading(proof, DAMAGED):
            for role, example in examples.items():
                encoder = self.roles[role].encoder
                vectors = self.embed(modalities.get(encoder.modality).read(example["inputs"], encoder), role)
                worst = max(worst, difference(vectors, np.asarray(example["vectors"], np.float32)))
        if not worst <= TOLERANCE:
            raise NearfarError(
                f"The model in {self.path} does not give its stored vectors (difference {worst:.2g}).",
                "Are the installed versions those of its README.md?",
            )
        return worst

    def save_sentence_transformer(self, path: str | Path, role: str | None = None) -> float:
        """Write the text tower as a folder that sentence-transformers loads; returns the largest difference found.

        Raises NearfarError, and writes nothing, if sentence-transformers would give other vectors.
        """
        from nearfar.encoders.export import sentence_transformer

        tower = self._tower(role or self.role_of("text"), "text")

        def write(folder: Path) -> float:
            with quiet():
                sentence_transformer(tower.encoder, tower.head, self.similarity == "cosine", folder)
                from sentence_transformers import SentenceTransformer

                loaded = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
            texts = [*modalities.get("text").examples(tower.encoder), "a longer text " * 400]
            theirs = loaded.encode(texts, convert_to_numpy=True, show_progress_bar=False)
            return _same(self.embed(texts, role or self.role_of("text")), theirs, "sentence-transformers")

        return _replace_folder(Path(path), "modules.json", write)

    def for_mteb(self, name: str) -> Any:
        """The model as `mteb.evaluate` takes it, under the name "owner/name": its first tower of texts embeds, a second
        one embeds documents. Raises InputError for a model without a tower of texts."""
        from nearfar.encoders.for_mteb import MtebEncoder

        return MtebEncoder(self, name)

    def save_timm(self, path: str | Path, role: str | None = None) -> float:
        """Write the image tower as a folder for timm.create_model("local-dir:PATH", pretrained=True); returns the
        largest difference found. timm normalises no input itself: use its data configuration, or (x - mean) / std.

        Raises InputError for an encoder that is not timm's or has a head, NearfarError if timm gives other vectors.
        """
        from nearfar.encoders.export import load_timm, timm_folder

        tower = self._tower(role or self.role_of("image"), "image")

        def write(folder: Path) -> float:
            encoder = timm_folder(tower.encoder, tower.head, folder)
            loaded, x = load_timm(folder), torch.from_numpy(noise_images(encoder.size)).float() / 255
            with torch.inference_mode():
                theirs = loaded.eval()((x - encoder.mean.cpu()) / encoder.std.cpu()).numpy()
            return _same(encoders.vectors(encoder, noise_images(encoder.size)), theirs, "timm")

        return _replace_folder(Path(path), "config.json", write)

    def _modality(self, items: Sequence[Any] | np.ndarray) -> str | None:
        if not self.roles:
            raise InputError("This model gives no vectors.", f"It can {' and '.join(self.inference.verbs)}.")
        if len(self.modalities) == 1 or not len(items):
            return self.modalities[0]
        found = modalities.of_item(items[0], self.modalities)
        if found is None:
            raise InputError(
                f"This model embeds {modalities.words(self.modalities)}. Got {items[0]!r:.80}.",
                "Say whose tower is meant: role=ROLE.",
            )
        return found.name

    def role_of(self, modality: str) -> str:
        """The first role whose tower embeds a kind of data. Raises InputError where there is none."""
        for role, tower in self.roles.items():
            if tower.encoder.modality == modality:
                return role.partition("/")[0] if role.partition("/")[0] in self.roles else role
        raise InputError(f"This model has no {modality} tower; it embeds {' and '.join(self.modalities)} only.")

    def check_role(self, role: str) -> None:
        """Raises InputError, with the nearest one, for a role that the model has not."""
        if role not in self.roles:
            raise InputError(
                f"This model has no role '{role}'.{did_you_mean(role, self.roles)}", f"Roles: {', '.join(self.roles)}."
            )

    def _tower(self, role: str | None, modality: str | None, variant: str | None = None) -> Tower:
        if role is None:
            role = self.role_of(modality or self.modalities[0])
        if variant is not None:
            check_variant(variant, self.roles)
            role = f"{role}/{variant}" if f"{role}/{variant}" in self.roles else role
        self.check_role(role)
        return self.roles[role]


def with_variants(roles: Mapping[str, Tower]) -> dict[str, Tower]:
    """The towers with those of the variants of their encoders and heads, whose weights are the same."""
    found = with_heads(roles)
    for role, tower in roles.items():
        for name, one in tower.encoder.variants().items():
            found.setdefault(f"{role}/{name}", Tower(one, tower.head, tower.kept).eval())
    return found


def variants_of(roles: Iterable[str]) -> list[str]:
    """The names behind the roles: ["salient"] for "image" and "image/salient"."""
    return sorted({role.partition("/")[2] for role in roles} - {""})


def check_variant(variant: str, roles: Iterable[str]) -> None:
    """Raises for a variant that a model of these roles does not have."""
    known = variants_of(roles)
    if variant not in known:
        raise InputError(
            f"This model has no variant '{variant}'.{did_you_mean(variant, known)}",
            f"Variants: {', '.join(known)}." if known else "It gives one vector of each input.",
        )


def save_model(
    folder: str | Path,
    towers: Mapping[str, Encoder | tuple[Encoder, nn.Module | None]],
    config: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    examples: Mapping[str, Sequence[Any]] | None = None,
    training_rows: trained.Known | None = None,
    inference: nn.Module | None = None,
) -> str:
    """Write a model folder and return the model's hash. Nothing is changed unless all of it could be written.

    Args:
        towers: role -> encoder, or (encoder, head kept at inference). Roles that share one encoder share its weights.
        config: "similarity" ("cosine", the default, or "dot"), and whatever else is to be kept (method, options, ...).
        card: for README.md: "title", "data", "method", "paper", "metrics" (dict), "licence", "command", "versions", ...
        examples: role -> up to 16 inputs whose vectors are stored; else built-in ones.
        training_rows: hashes of what it was trained on (`trained.rows_of`), so that it is told when it is measured on
            these.
        inference: what the model answers beside vectors (`nearfar.methods.Inference`); the method in `config` must
            restore it.

    The new folder is loaded and verified before it takes its place; a model that stood there goes only then.
    Raises InputError for a place that holds something else, NearfarError if it cannot be written.
    """
    extra = dict(config or {})
    taken = sorted(set(extra) & set(_RESERVED) - {"similarity"})
    if taken:
        raise InputError(f"config must not set {', '.join(taken)}: these keys are the model's own.")
    if extra.get("similarity", "cosine") not in SIMILARITIES:
        raise InputError(f"The similarity '{extra['similarity']}' is not known.", "Known: cosine, dot.")
    if not towers and inference is None:
        raise InputError("A model needs at least one tower.")
    named, roles = _name_towers(towers)

    def write(place: Path) -> str:
        whole = _whole_config(named, roles, extra)
        answers: Any = inference
        if answers is not None:
            whole["inference"] = _plain_config(answers.config())
        model = Model({role: named[name] for role, name in roles.items()}, whole)
        if training_rows:
            trained.write(place, training_rows)
        digest = _write(place, named, model, card or {}, examples or {}, answers)
        loaded = load(place, verify=True)
        if answers is not None and not _same_state(answers, loaded.inference):
            raise NearfarError(
                "What the model answers beside vectors is not restored as it was saved.",
                "restore_inference must build a module of the same tensors.",
            )
        return digest

    return _replace_folder(Path(folder), "verify.json", write)


@checked
def load(path: str | Path, verify: bool = False, device: torch.device | str = "cpu") -> Model:
    """The model of a folder, ready to embed: nearfar's own, or one of transformers (CLIP, SigLIP, an encoder of
    images or of texts) or sentence-transformers. verify: also embed its stored examples and compare.

    Raises InputError for a folder that is not a model, is not complete, was changed after it was written, or was
    written by a later nearfar.
    """
    folder = local(path)
    files.tidy(folder)  # an earlier model that was being replaced comes back
    if encoders.is_foreign(folder):
        model = _foreign(folder).to(device)
        if verify:
            model.verify()
        return model
    config = _read_config(folder)
    digest = _check_files(folder, config)
    state = load_tensors(folder / "model.safetensors")
    with files.reading(folder / "config.json", DAMAGED):
        named = {name: _tower(name, description, folder, state) for name, description in config["towers"].items()}
        roles = {role: named[name] for role, name in config["roles"].items()}
    answers = {key.removeprefix(ANSWERS): value for key, value in state.items() if key.startswith(ANSWERS)}
    model = Model(roles, config, folder, digest, answers).to(device)
    if verify:
        model.verify()
    return model


def open_model(model: Any) -> Model:
    """A loaded model as it is; a model folder, or a run folder that holds one, loaded, also from an object store."""
    if isinstance(model, Model):
        return model
    if not isinstance(model, str | Path) or not str(model).strip():
        raise InputError(f"A model is a folder or a loaded model. Got {model!r:.80}.", "Give the folder of a model.")
    return load(inner_folder(model))


def inner_folder(place: str | Path) -> Path:
    """The model folder within that of a run or a comparison; else the folder itself. Of a URL a copy of it alone."""
    if is_url(place):
        there = Store(str(place)).listed()
        return fetched(str(next((below(place, n) for n in ("model", "best") if f"{n}/config.json" in there), place)))
    path = Path(place)
    for name in ("model", "best"):
        files.tidy(path / name)  # one that was being replaced when its process was killed comes back
    return next((path / n for n in ("model", "best") if (path / n / "config.json").exists()), path)


def kinds_in(model: str | Path) -> list[str]:
    """The kinds of data that the model in a folder (or in that of its run) embeds, without loading it.

    Raises InputError for a folder that holds none."""
    place = inner_folder(model)
    if encoders.is_foreign(place):
        return encoders.kinds_of_folder(place)
    towers = _read_config(place)["towers"]
    with files.reading(place / "config.json", DAMAGED):
        return sorted({one["encoder"]["modality"] for one in towers.values()})


def _foreign(folder: Path) -> Model:
    """A folder that another library wrote, as a model: cosine, a tower for each kind of data that it takes."""
    found = encoders.of_folder(folder)
    roles = {role: Tower(encoder, kept=True).eval() for role, encoder in found.items()}
    widths = sorted({encoder.dim for encoder in found.values()})
    if len(widths) > 1:
        raise InputError(f"The towers of {folder} give {' and '.join(map(str, widths))} numbers: they share no space.")
    config = {"method": f"pretrained {' and '.join(found)}", "similarity": "cosine", "dim": widths[0],
              "roles": {role: role for role in roles}}  # fmt: skip
    return Model(roles, config, folder, _digest(_hash_files(folder)))


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON gives it back. Raises InputError where it would not be the same."""
    try:
        plain = json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The configuration of an inference module is not JSON: {error}.",
            "Keep arrays as tensors (register_buffer).",
        ) from error
    return plain


def _same_state(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(v.cpu(), second[k].cpu()) for k, v in first.items())


def _tower(name: str, description: Mapping[str, Any], folder: Path, state: Mapping[str, torch.Tensor]) -> Tower:
    encoder = encoders.from_config(description["encoder"], folder / name)
    head = None if description["head"] is None else heads.build(description["head"])
    made = Tower(encoder, head, kept=True).eval()
    part = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    load_into(made, part, folder / "model.safetensors")
    encoder.pretrained = True
    return made


def _described(tower: Tower) -> dict[str, Any]:
    head = None if tower.head is None else heads.describe(tower.head)
    preprocessing = modalities.get(tower.encoder.modality).preprocessing(tower.encoder)
    return {"encoder": tower.encoder.config(), "head": head, "preprocessing": preprocessing}


def _name_towers(towers: Mapping[str, Any]) -> tuple[dict[str, Tower], dict[str, str]]:
    """Distinct towers by name (the first role that uses each), and role -> name."""
    named, roles, known = {}, {}, {}
    for role, value in towers.items():
        encoder, head = value if isinstance(value, tuple) else (value, None)
        if isinstance(encoder, Frozen):
            encoder = encoder.encoder
        key = (id(encoder), id(head))
        if key not in known:
            known[key] = role.replace("/", "-")
            named[known[key]] = Tower(merged(encoder), head, kept=True)
        roles[role] = known[key]
    return named, roles


def _whole_config(named: Mapping[str, Tower], roles: Mapping[str, str], extra: dict[str, Any]) -> dict[str, Any]:
    described = {name: _described(tower) for name, tower in named.items()}
    plain = dict.fromkeys(name for role, name in roles.items() if "/" not in role)
    widths = {name: heads.width(described[name]["head"] or [], named[name].encoder.dim) for name in plain}
    if len(set(widths.values())) > 1:
        raise InputError(
            f"The towers give vectors of different lengths: {widths}.", "Add heads that end in one length."
        )
    return (
        {"format": FORMAT, "nearfar": _version(), "similarity": "cosine"}
        | extra
        | {"dim": next(iter(widths.values()), 0), "roles": dict(roles), "towers": described}
    )


def _version() -> str:
    try:
        return metadata.version("nearfar")
    except metadata.PackageNotFoundError:
        return "unknown"


def _write(
    place: Path,
    named: Mapping[str, Tower],
    model: Model,
    card: Mapping[str, Any],
    examples: Mapping[str, Sequence[Any]],
    answers: nn.Module | None = None,
) -> str:
    from safetensors.torch import save_file

    state = {}
    for name, tower in named.items():
        (place / name).mkdir()
        tower.encoder.save_files(place / name)
        if not any((place / name).iterdir()):
            (place / name).rmdir()
        state |= {
            f"{name}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in tower.state_dict().items()
        }
    if answers is not None:
        state |= {
            ANSWERS + key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in answers.state_dict().items()
        }
    _write_json(place / "config.json", model.config)
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(place / "config.json", place / "model.safetensors")  # safetensors lets its owner alone read it
    hashes = _hash_files(place)
    digest = _digest(hashes)
    stored = {}
    first: dict[str, str] = {}
    for role, name in model.config["roles"].items():
        first.setdefault(name, role)
    for role in first.values():
        encoder = model.roles[role].encoder
        kind = modalities.get(encoder.modality)
        given = examples.get(role)
        inputs = list(kind.examples(encoder) if given is None or not len(given) else given)[:16]
        coded = kind.write(inputs, encoder)
        for shown in [f"{role}/{name}" for name in encoder.variants()] or [role]:
            stored[shown] = {"inputs": coded, "vectors": model.embed(kind.read(coded, encoder), shown).tolist()}
    _write_json(place / "verify.json", {"hash": digest, "files": hashes, "examples": stored})
    (place / "README.md").write_text(model_card(model, card, digest), encoding="utf-8")
    return digest


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"There is no model folder {folder}.", "Give the folder that fit or compare wrote.")
    inner = [child.name for child in sorted(folder.iterdir()) if (child / "verify.json").is_file()]
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is not a model folder: it has no config.json.",
            f"Did you mean {folder / inner[0]}?" if inner else "",
        )
    config = files.read_json(folder / "config.json", {}, DAMAGED)
    if "towers" not in config and inner:
        raise InputError(f"{folder} is a run, not a model folder.", f"Its model is {folder / inner[0]}.")
    if "format" not in config or "towers" not in config:
        raise InputError(
            f"{folder / 'config.json'} is not that of a model: neither of nearfar nor of transformers.",
            "Give the folder that fit or compare wrote, or one of transformers or sentence-transformers.",
        )
    files.check_fields(config, {"format": int}, folder / "config.json", DAMAGED)
    if config["format"] > FORMAT:
        raise InputError(
            f"The model in {folder} has format {config['format']}; this nearfar reads up to {FORMAT}.",
            f"Install nearfar {config.get('nearfar', '')} or later.",
        )
    files.check_fields(config, CONFIG, folder / "config.json", DAMAGED)
    return config


def _check_files(folder: Path, config: Mapping[str, Any]) -> str:
    """The model's hash; InputError for a file that is missing, changed, or read but not in the list of verify.json."""
    for name in ("verify.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"The model in {folder} is not complete: {name} is missing.", "Copy the whole folder.")
    written = files.read_json(folder / "verify.json", VERIFY, DAMAGED)["files"]
    _check_list(folder, written, config["towers"])
    for name, digest in written.items():
        if not (folder / name).is_file():
            raise InputError(f"The model in {folder} is not complete: {name} is missing.", "Copy the whole folder.")
        if files.digest(folder / name) != digest:
            raise InputError(
                f"{folder / name} was changed after the model was written.",
                "Copy the folder again, or save the changed model as a new one.",
            )
    return _digest(written)


def _check_list(folder: Path, written: Mapping[str, Any], towers: Mapping[str, Any]) -> None:
    """Raises where verify.json names a file outside of the folder, or leaves out one that is read: the weights, the
    configuration, the files of a tower."""
    for name in [*written, *towers]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise files.damaged(folder / "verify.json", f"'{name}' does not lie in the folder", DAMAGED)
    read = ["config.json", "model.safetensors"]
    read += [path.name for path in folder.iterdir() if path.suffix.lower() in WEIGHTS]
    read += [
        path.relative_to(folder).as_posix()
        for name in towers
        for path in (folder / name).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    unlisted = sorted(set(read) - set(written))
    if unlisted:
        raise InputError(
            f"{folder / unlisted[0]} does not belong to the model: {folder / 'verify.json'} does not list it.",
            "Take the file away, or copy the model folder again.",
        )


def _hash_files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files.digest(path) for path in found}


def _digest(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of a coordinate, relative to the largest coordinate where that is above 1."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max(initial=0) / max(1.0, float(np.abs(theirs).max(initial=0))))


def _same(ours: np.ndarray, theirs: np.ndarray, name: str) -> float:
    worst = difference(ours, theirs)
    if not worst <= TOLERANCE:
        raise NearfarError(f"{name} gives other vectors (largest difference {worst:.2g}); nothing was written.")
    return worst


def _replace_folder(target: Path, mark: str, write: Callable[[Path], Any]) -> Any:
    """Let `write` fill a temporary folder beside `target`, then put it in its place; on failure `target` stays.

    mark: a file that an older version of such a folder has; a folder with other things in it is not replaced.
    """
    if target.exists() and not (target.is_dir() and ((target / mark).is_file() or not any(target.iterdir()))):
        raise InputError(f"{target} exists and is not a model folder; it is left as it is.", "Choose another place.")
    try:
        with files.whole(target) as fresh:
            fresh.mkdir()
            return write(fresh)
    except OSError as error:
        kind = InputError if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) else NearfarError
        raise kind(f"{target} could not be written: {error}.", "What was there before is unchanged.") from error


def model_card(model: Model, card: Mapping[str, Any], digest: str = "") -> str:
    """README.md of a model: data, method, metrics, licence, how to use it."""
    title = card.get("title") or f"{model.config.get('method', 'nearfar')} model"
    kinds = [modalities.get(name) for name in model.modalities]
    feature = kinds[0].tag if kinds else "other"
    vectors = (f"Maps {' and '.join(model.modalities)} to vectors of {model.dim} numbers; compare them by "
               f"{'cosine similarity' if model.similarity == 'cosine' else 'dot product'}.")  # fmt: skip
    lines = [
        "---",
        "library_name: nearfar",
        f"pipeline_tag: {feature}",
        "tags: [contrastive-learning, nearfar]",
        "---",
        "",
        f"# {title}",
        "",
        vectors if kinds else "Gives no vectors; see `nearfar predict` and `generate`.",
        "",
    ]
    for key in ("data", "method", "paper", "licence", "command", "versions", "notes"):
        if card.get(key):
            value = card[key]
            text = "\n".join(f"- {k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
            lines += [f"## {key.capitalize()}", "", f"    {text}" if key == "command" else text, ""]
    if card.get("metrics"):
        lines += ["## Metrics", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {_number(value)} |" for name, value in card["metrics"].items()] + [""]
    if not card.get("licence"):
        lines += ["## Licence", "", "Not stated. Mind the licences of the training data and of pretrained weights.", ""]
    lines += [
        "## Use",
        "",
        "```python",
        "import nearfar",
        'model = nearfar.load("path/of/this/folder")',
        *([f"vectors = model.{kinds[-1].usage}"] if kinds else []),
        "```",
        "",
    ]
    return "\n".join(lines + ([f"Model hash: `{digest}`", ""] if digest else []))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
