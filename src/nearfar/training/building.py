"""From settings and data to a method that is ready to train: which method fits, which encoders, which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar import evaluation, methods, modalities, options
from nearfar.encoders import Encoder, Features, Frozen
from nearfar.encoders.tokens import TokenStore
from nearfar.errors import InputError, did_you_mean
from nearfar.methods.base import Facts, Method, Optimisation
from nearfar.training.loading import HardNegatives, Inputs, Loader, Sampler, StreamLoader, TokenStream
from nearfar.training.settings import TrainSettings
from nearfar.training.survey import survey_of


def roles_of(data: Any) -> set[str]:
    """What the data hold: roles by name, "any" for a column of any kind, "pair" for two that belong together."""
    return modalities.holding(role for role, columns in data.roles.items() if columns)


def fits(slug: str, data: Any) -> bool:
    """Whether the data hold what a method needs."""
    return any(need <= roles_of(data) for need in methods.get(slug).needs)


def choose(data: Any) -> tuple[str, str]:
    """A method that fits the data, and why."""
    roles = roles_of(data)
    pairs = [pair for pair in modalities.pairs() if {*pair} <= roles]
    across = next((pair for pair in pairs if len(modalities.kinds(pair)) == 2), None)
    if across and "group" not in roles:
        a, b = (modalities.of(role).word for role in across)
        return "align" if fits("align", data) else "pairs", f"each row pairs a {a} with a {b}"
    if any(pair != across and len(modalities.kinds(pair)) == 1 for pair in pairs):
        return "pairs", "each row is a pair"
    if "group" in roles:
        return "pairs", f"rows with the same '{data.roles['group']}' are positives of each other"
    found = modalities.first(roles)
    if found is not None:
        return modalities.get(found).method, modalities.get(found).why
    raise InputError(
        f"{data.name} holds no {modalities.words()}.", "Name a column: --image COLUMN or --text COLUMN."
    )


def check_needs(slug: str, data: Any) -> None:
    if not fits(slug, data):
        needs = modalities.needs_in_words(methods.get(slug).needs)
        held = sorted(role for role in data.roles if data.roles[role])
        raise InputError(
            f"'{slug}' needs {needs}; {data.name} has {', '.join(held) or 'none of these'}.",
            "Name the columns (--text COLUMN ...), or see `nearfar methods` for one that fits.",
        )


def prefers_groups(data: Any, settings: TrainSettings) -> bool:
    """Whether pairs are made of groups where the data hold columns of pairs as well."""
    return settings.by == "group" or (settings.by == "auto" and data.meta.get("by") == "group")


def kinds_of(cls: type[Method], data: Any, settings: TrainSettings) -> list[str]:
    """Kinds of data of the encoders that a method gets: one, or two for pairs of two kinds."""
    return cls.wants(roles_of(data), prefers_groups(data, settings))


def options_of(kind: str, data: Any, settings: TrainSettings) -> Any:
    """The options of the encoder of one kind, each "auto" replaced by what suits the data."""
    known = modalities.get(kind)
    return known.resolve(settings.of(known), data)


def build_encoder(kind: str, data: Any, settings: TrainSettings) -> Encoder:
    """The encoder of one kind, its weights drawn from the seed; frozen where asked for."""
    torch.manual_seed(settings.seed)
    made = modalities.get(kind).encoder(options_of(kind, data, settings), data, settings.seed)
    return Frozen(made) if settings.freeze else made


def task_of(slug: str, data: Any, settings: TrainSettings) -> evaluation.Task:
    """What is measured: the task asked for, else the first that the data hold and the method's encoders can answer."""
    if settings.task != "auto":
        return evaluation.task_for(data, settings.task, shared={"layer": settings.layer})
    task = evaluation.task_for(data, shared={"layer": settings.layer})
    kinds = kinds_of(methods.get(slug), data, settings)
    if len(kinds) == 2:
        return evaluation.task_for(data, "sts" if "score" in data.roles else "pairs")
    if set(modalities.kinds(task.roles)) <= set(kinds):
        return task
    return evaluation.task_for(data, modalities=kinds, shared={"layer": settings.layer})


def pretrained(kind: str, settings: TrainSettings) -> bool:
    """Whether the encoder of a kind comes with weights."""
    return modalities.get(kind).pretrained(settings.of(modalities.get(kind)))


def weights_of(settings: TrainSettings) -> list[str]:
    """Where weights come from that may have seen rows of the data."""
    found = [kind.weights(settings.of(kind)) for kind in modalities.everyone()]
    return [one for one in found if one]


@dataclass
class Setup:
    """A method with its loader, ready for a trainer. `resolved`: what each "auto" became."""

    method: Method
    loader: Loader
    settings: TrainSettings
    options: dict[str, Any]
    resolved: dict[str, Any]
    rows: np.ndarray
    kinds: list[str]


def targets_of(slug: str) -> list[Any]:
    return [methods.get(slug)]


def method_options(slug: str, given: Mapping[str, Any], preset: str) -> Any:
    """Checked options of a method; with the paper's literals under what was given."""
    base = dict(methods.get(slug).preset_paper) if preset == "paper" else {}
    return options.checked(targets_of(slug), base | dict(given))


def build_method(
    slug: str, data: Any, settings: TrainSettings, checked: Any, ready: Mapping[str, Encoder] | None = None
) -> tuple[Method, list[str]]:
    """A fresh method; `ready` replaces encoders (by kind) that are made already."""
    cls = methods.get(slug)
    check_needs(slug, data)
    kinds = kinds_of(cls, data, settings)
    made = [(ready or {}).get(k) or build_encoder(k, data, settings) for k in kinds]
    torch.manual_seed(settings.seed + 1)
    arguments = options.instantiate(targets_of(slug), checked)
    method = cls(*made, **arguments)
    roles = roles_of(data) - ({"group"} if settings.by == "columns" else set())
    method.columns(roles if not (prefers_groups(data, settings) and len(kinds) == 1) else {kinds[0], "group"})
    return method, kinds


def check_settings(settings: TrainSettings) -> None:
    """Raises InputError for what would fail on any data: an optimiser, a device, an encoder that is not there."""
    from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    known = [str(name) for name in list_optimizers()]
    if settings.optimiser.lower() not in known:
        raise InputError(
            f"There is no optimiser '{settings.optimiser}'.{did_you_mean(settings.optimiser.lower(), known)}",
            f"Known: {', '.join(known[:12])} ... (timm.optim.list_optimizers()).",
        )
    cards = torch.cuda.device_count()
    if settings.device == "cuda" and not cards:
        raise InputError("--device cuda: there is no CUDA device here (torch sees none).", "Use --device cpu or auto.")
    if settings.device != "cpu" and settings.devices > cards > 0:
        raise InputError(f"--devices {settings.devices}: there are {cards} GPUs here.", "Ask for so many at most.")
    for kind in modalities.everyone():
        kind.check(settings.of(kind))


def prepare(
    slug: str,
    data: Any,
    settings: TrainSettings,
    given: Mapping[str, Any],
    *,
    cache: Path | None = None,
    ready: Mapping[str, Encoder] | None = None,
) -> Setup:
    """Everything before the first step. Raises InputError early, before anything is written."""
    checked = method_options(slug, given, settings.preset)
    method, kinds = build_method(slug, data, settings, checked, ready)
    check_layer(method, settings.layer)
    rows = training_rows(method, data)
    sampler = Sampler(rows, data.groups, method.members, 1, settings.seed)
    batch = auto_batch(settings, sampler.items, slug)
    sampler.batch_size = batch
    known = any(pretrained(k, settings) and trains(method, k) for k in kinds)
    steps = auto_steps(settings, max(1, sampler.epoch_steps // settings.accumulate), known)
    loader = make_loader(method, data, sampler, steps, settings, cache)
    loader.turns = settings.accumulate
    if settings.warmup != "auto" and settings.warmup >= steps:
        raise InputError(
            f"A warm-up of {settings.warmup} steps does not end within the {steps} steps of the run.",
            "Use a smaller --warmup or more --steps.",
        )
    facts: Facts = loader.facts(len(rows))
    method.micro = settings.micro_batch
    method.optimisation = auto_optimisation(settings, steps, known, kinds)
    made = [modalities.get(kind).resolved(options_of(kind, data, settings)) for kind in kinds]
    resolved = {
        "batch_size": batch,
        "steps": steps,
        **{name: value for one in made for name, value in one.items()},
        "lr": method.optimisation.lr,
        "warmup": method.optimisation.warmup,
    }
    torch.manual_seed(settings.seed + 2)
    resolved |= method.attach(facts)
    method.prepare(data, rows)
    setup = Setup(
        method,
        loader,
        settings,
        options.plain(checked),
        {k: v for k, v in resolved.items() if v is not None},
        rows,
        kinds,
    )
    method.seed, loader.method = settings.seed, method
    method.survey = survey_of(setup, data)
    return setup


def reads_scores(method: Any) -> bool:
    """Whether its loss asks how far the sides of a pair belong together."""
    return method.row_loss.graded


def training_rows(method: Any, data: Any) -> np.ndarray:
    """The training rows that a method learns from: where rows are pairs, those that belong together, unless the loss
    reads how far they do."""
    rows = np.asarray(data.splits["train"])
    if not method.paired or reads_scores(method) or data.positives is None:
        return rows
    rows = rows[data.positives[rows]]
    if not len(rows):
        raise InputError(
            "No training pair belongs together: all are labelled 0 or score low.",
            "Check the columns of --pair-label, --score and --split.",
        )
    return rows


def check_layer(method: Method, layer: int | None) -> None:
    """Raises before any training where the measured layer is none of the picture encoder's."""
    made: list[Any] = [t.encoder for t in method.towers().values()]
    for one in made:
        encoder: Any = one.encoder if isinstance(one, Frozen) else one
        if layer is not None and hasattr(encoder, "check_layer"):
            encoder.check_layer(layer)


def trains(method: Method, kind: str) -> bool:
    """Whether a method changes the encoder of one kind of data (and does not keep it frozen)."""
    made = [t.encoder for t in method.towers().values() if t.encoder.modality == kind]
    return any(p.requires_grad for encoder in made for p in encoder.parameters())


def auto_batch(settings: TrainSettings, items: int, slug: str) -> int:
    """128, or a quarter of the items if that is less. Raises where there is not an item a process."""
    batch, together = _batch(settings, items, slug), settings.devices * settings.nodes
    if batch < together:
        raise InputError(
            f"{together} processes cannot share a batch of {batch} items.",
            "Use a larger --batch-size or fewer devices.",
        )
    return batch


def _batch(settings: TrainSettings, items: int, slug: str) -> int:
    if settings.batch_size == "auto":
        if items < 4:
            raise InputError(f"There are only {items} training items: contrast needs more.", "Add data.")
        return max(2, min(128, items // 4))
    if settings.batch_size > items:
        raise InputError(
            f"The batch size {settings.batch_size} is larger than the {items} training items of '{slug}'.",
            f"Use --batch-size {max(2, items // 2)} or less, or leave it to auto.",
        )
    return int(settings.batch_size)


def auto_steps(settings: TrainSettings, epoch: int, known: bool) -> int:
    """50 epochs within 200 and 3000 steps; 3 epochs within 50 and 3000 for an encoder that is pretrained."""
    if settings.steps != "auto":
        return int(settings.steps)
    return min(3000, max(50, 3 * epoch)) if known else min(3000, max(200, 50 * epoch))


def auto_optimisation(settings: TrainSettings, steps: int, known: bool, kinds: Sequence[str]) -> Optimisation:
    lr = settings.lr
    if lr == "auto":
        found = [modalities.get(kind) for kind in kinds]
        lr = 5e-5 if known else max(kind.learning_rate(settings.of(kind)) for kind in found)
    warmup = steps // 20 if settings.warmup == "auto" else int(settings.warmup)
    return Optimisation(settings.optimiser, float(lr), settings.weight_decay, 0.9, warmup, settings.schedule)


def make_loader(
    method: Method, data: Any, sampler: Sampler, steps: int, settings: TrainSettings, cache: Path | None
) -> Loader:
    wanted = list(dict.fromkeys(method.reads))
    if method.stream:
        if getattr(getattr(method, "negatives", None), "needs_rows", False):
            raise InputError(
                "These negatives look at all training rows, but a stream of text has none.", "Use --stream false."
            )
        return stream_loader(method, data, sampler, steps, settings)
    inputs: dict[str, Inputs] = {}
    for role in wanted:
        inputs[role] = role_inputs(method, data, role, cache)
    loader = Loader(sampler, inputs, data, wanted, steps, settings.seed)
    if method.paired:
        graded = reads_scores(method)
        loader.pair(data, *wanted, graded=graded)
        if not graded:
            loader.negatives = hard_negatives(method, data, wanted, inputs)
    return loader


def hard_negatives(
    method: Any, data: Any, roles: Sequence[str], inputs: Mapping[str, Inputs]
) -> list[HardNegatives]:
    """Those of the columns that the data name, and the rows that are labelled 0."""
    encoder: Any = method.towers()[roles[1]].encoder
    found = [
        HardNegatives(data.modality(column).reader(data, column, encoder).raw, np.asarray(data.content(column)))
        for column in data.roles.get("negative") or ()
    ]
    if data.pair_labels is not None:
        train = np.asarray(data.splits["train"])
        apart = train[data.pair_labels[train] == 0]
        anchors, contents = (np.asarray(data.content(role)) for role in roles)
        if np.isin(anchors[apart], anchors[training_rows(method, data)]).any():
            found.append(HardNegatives(inputs[roles[1]], contents, anchors, apart))
    return found


def role_inputs(method: Any, data: Any, role: str, cache: Path | None) -> Inputs:
    """What views take of a role; of a frozen encoder its features, computed once."""
    encoder: Any = method.towers()[role].encoder
    kind = modalities.of(role)
    if not isinstance(encoder, Frozen):
        return kind.reader(data, role, encoder, method.length).raw
    size = getattr(encoder.encoder, "size", None)
    made = encoder.features(kind.items(data, role, None, size), cache=cache, key=f"{data.hash}-{role}-{size}")

    def read(rows: np.ndarray, rng: np.random.Generator | None) -> Features:
        return Features(torch.from_numpy(np.ascontiguousarray(made[rows])))

    return read


def stream_loader(method: Any, data: Any, sampler: Sampler, steps: int, settings: TrainSettings) -> StreamLoader:
    train = np.asarray(data.splits["train"])
    encoder: Any = method.towers()[method.role].encoder
    store = TokenStore(encoder.encode_ids(data.texts(method.role, train)), encoder.special.length)
    corpora = np.zeros(len(train), np.int64) if data.domains is None else np.asarray(data.domains)[train]
    stream = TokenStream(store, corpora, method.length, method.alpha)
    return StreamLoader(stream, method.role, sampler.batch_size, steps, settings.seed)
