"""From settings and data to a method that is ready to train: which method fits, which encoders, which options."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearfar import evaluation, methods, modalities, options
from nearfar.encoders import Encoder, Features, Frozen, unfrozen
from nearfar.encoders.base import Joint
from nearfar.encoders.tokens import TokenStore
from nearfar.errors import InputError
from nearfar.methods.base import Method
from nearfar.methods.batch import Facts
from nearfar.methods.nesting import nest, nesting
from nearfar.methods.optimisation import Optimisation, check_optimiser
from nearfar.models import kinds_in, open_model
from nearfar.samplers import Rows, Sampler
from nearfar.sources.bags import bag_targets
from nearfar.training.drawing import Draw, balance_note, samplers_of
from nearfar.training.loading import HardNegatives, Inputs, Loader
from nearfar.training.loggers import check_loggers, names_of
from nearfar.training.settings import TrainSettings
from nearfar.training.shaping import check_shape, check_shaped, compile_encoders, shaped
from nearfar.training.sharding import check_sharded
from nearfar.training.survey import survey_of
from nearfar.training.teaching import check_teacher, distiller_of

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def roles_of(data: Data) -> set[str]:
    """What training rows hold: roles by name, "any" for a column of any kind, "pair" for two that belong together."""
    return modalities.holding(role for role, columns in data.training_roles.items() if columns)


def roles_for(cls: type[Method], data: Data) -> set[str]:
    """The roles that the data hold for a method: one that learns classes takes the first label as its target, where no
    target is named."""
    roles = roles_of(data)
    return roles | {"target"} if cls.target in ("classes", "bags") and "label" in roles else roles


def fits(slug: str, data: Data) -> bool:
    """Whether the data hold what a method needs."""
    roles = roles_for(methods.get(slug), data)
    return any(need <= roles for need in methods.get(slug).needs)


def choose(data: Data) -> tuple[str, str]:
    """A method that fits the data, and why."""
    roles = {role: column for role, column in data.roles.items() if role in roles_of(data)}
    found = {slug: methods.get(slug).suits(roles) for slug in methods.slugs()}
    suiting = {slug: how for slug, how in found.items() if how is not None}
    if suiting:
        best = max(suiting, key=lambda slug: suiting[slug][0])
        return best, suiting[best][1]
    raise InputError(f"{data.name} holds no {modalities.words()}.", "Name a column: --image COLUMN or --text COLUMN.")


def check_needs(slug: str, data: Data) -> None:
    if not fits(slug, data):
        needs = modalities.needs_in_words(methods.get(slug).needs)
        held = sorted(role for role, columns in data.training_roles.items() if columns)
        raise InputError(
            f"'{slug}' needs {needs}; {data.name} has {', '.join(held) or 'none of these'}.",
            f"Name the columns ({_lacking(slug, data)}), or see `nearfar methods` for one that fits.",
        )
    if methods.get(slug).target == "numbers" and "target" in data.roles and data.target_values is None:
        raise InputError(f"'{slug}' learns numbers. {data.not_a_number()}", "Name another column with --target.")


def _lacking(slug: str, data: Data) -> str:
    """The options that name what a method needs and the data lack, in each of its ways."""
    held = roles_of(data)
    kind = modalities.get(modalities.first(held) or "text")
    meant = {modalities.ANY: kind.roles[0], modalities.PAIR: kind.roles[-1]}
    ways = [sorted(str(meant.get(role, role)) for role in need - held) for need in methods.get(slug).needs]
    return ", or ".join(" ".join(f"--{role.replace('_', '-')} COLUMN" for role in way) for way in ways)


def prefers_groups(data: Data, settings: TrainSettings) -> bool:
    """Whether pairs are made of groups where the data hold columns of pairs as well."""
    return settings.by == "group" or (settings.by == "auto" and data.meta.get("by") == "group")


def kinds_of(cls: type[Method], data: Data, settings: TrainSettings) -> list[str]:
    """Kinds of data of the encoders that a method gets: one, or two for pairs of two kinds; a kind that stands twice is
    that of two encoders."""
    return cls.wants(roles_for(cls, data), prefers_groups(data, settings))


def suited(settings: TrainSettings, *slugs: str) -> TrainSettings:
    """The settings with encoders that are "auto" chosen for these methods, where the model to start from has none."""
    layered, held = any(methods.get(slug).layered for slug in slugs), kinds_held(settings)
    for kind in modalities.everyone():
        if kind.name in held:
            continue
        given = settings.of(kind)
        if (chosen := kind.suited(given, layered)) != given:
            settings = dataclasses.replace(settings, **dataclasses.asdict(chosen))
    preferred = [methods.get(slug).prefers for slug in slugs]
    for name, value in (preferred[0] if preferred else {}).items():
        if getattr(settings, name) == "auto" and all(one.get(name) == value for one in preferred):
            settings = dataclasses.replace(settings, **{name: value})
    return settings


def kinds_held(settings: TrainSettings) -> Sequence[str]:
    """The kinds of data that the model to start from embeds; none where there is no model, or its folder is wrong."""
    try:
        return () if settings.model is None else kinds_in(settings.model)
    except InputError:
        return ()


def options_of(kind: str, data: Data, settings: TrainSettings) -> Any:
    """The options of the encoder of one kind, each "auto" replaced by what suits the data."""
    known = modalities.get(kind)
    return known.resolve(settings.of(known), data)


def build_encoder(kind: str, data: Data, settings: TrainSettings, place: int = 0) -> Encoder:
    """The encoder of one kind, its weights drawn from the seed, or that of the model to start from (the one of several
    at a place); as the settings shape it."""
    torch.manual_seed(settings.seed)
    made = None if settings.model is None else encoder_of(settings.model, kind, place)
    if made is None:
        made = modalities.get(kind).encoder(options_of(kind, data, settings), data, settings.seed)
    return shaped(made, settings)


def encoder_of(model: str, kind: str, place: int = 0) -> Encoder | None:
    """The encoder of a kind of a model's folder, with the space that its towers share; of several towers the one at a
    place, or the last; None where the model has none."""
    loaded = open_model(model)
    mine = {id(t): t for role, t in loaded.roles.items() if t.encoder.modality == kind and "/" not in role}
    if not mine:
        return None
    tower = list(mine.values())[min(place, len(mine) - 1)]
    made = tower.encoder.train()
    made.joint = Joint(loaded.hash, loaded.dim, tower.head)
    return made


def encoder_at(
    place: int, kinds: Sequence[str], data: Data, settings: TrainSettings, ready: Mapping[str, Encoder]
) -> Encoder:
    """The encoder of the kind at a place; a kind that stood there before has other random weights."""
    kind, earlier = kinds[place], kinds[:place].count(kinds[place])
    if earlier == 0 and kind in ready:
        return ready[kind]
    return build_encoder(kind, data, dataclasses.replace(settings, seed=settings.seed + 1_000_003 * earlier), earlier)


def task_of(slug: str, data: Data, settings: TrainSettings) -> evaluation.Task:
    """What is measured: the task asked for, else the method's own, else the first that the data hold and the method's
    encoders can answer."""
    own, shared = own_task(slug), {"layer": settings.layer}
    task = evaluation.task_for(data, settings.task, shared=shared, before=own)
    kinds = kinds_of(methods.get(slug), data, settings)
    if settings.task != "auto" or task.kind == own or not kinds:
        return task
    if task.also and set(modalities.kinds(task.roles)) <= set(kinds):
        return task
    if len(set(kinds)) == 2:
        return evaluation.task_for(data, "sts" if "score" in data.roles else "pairs")
    if set(modalities.kinds(task.roles)) <= set(kinds):
        return task
    return evaluation.task_for(data, modalities=kinds, shared=shared)


def own_task(*slugs: str) -> str | None:
    """The task by which all these methods are measured; None where they name none, or several."""
    named = {methods.get(slug).measured_by for slug in slugs}
    return named.pop() if len(named) == 1 else None


def pretrained(kind: str, settings: TrainSettings) -> bool:
    """Whether the encoder of a kind comes with weights."""
    if settings.model is not None and kind in kinds_in(settings.model):
        return True
    return modalities.get(kind).pretrained(settings.of(modalities.get(kind)))


def weights_of(settings: TrainSettings) -> list[str]:
    """Where weights come from that may have seen rows of the data."""
    found = [settings.model, settings.distil_from, *(kind.weights(settings.of(kind)) for kind in modalities.everyone())]
    return [one for one in found if one]


@dataclass
class Setup:
    """A method with its loader, ready for a trainer. `resolved`: what each "auto" became; `seconds`: what `prepare` of
    the method took; `notes`: what the reader should know; `prescribed`: the batch size, where the method draws batches
    of its own size."""

    method: Method
    loader: Loader
    settings: TrainSettings
    options: dict[str, Any]
    resolved: dict[str, Any]
    rows: np.ndarray
    kinds: list[str]
    seconds: float = 0.0
    notes: Sequence[str] = ()
    prescribed: int | None = None


def targets_of(slug: str) -> list[Any]:
    return [methods.get(slug)]


def method_options(slug: str, given: Mapping[str, Any], preset: str) -> Any:
    """Checked options of a method; with the paper's literals under what was given."""
    return options.checked(targets_of(slug), given, preset)


def views_of_another_kind(
    slug: str, data: Data, given: Mapping[str, Any], settings: TrainSettings, checked: Any
) -> str:
    """A note where the paper's views are made for another kind of data than what the method trains on; else ""."""
    paper = getattr(checked, "views", None)
    if settings.preset != "paper" or "views" in given or paper is None:
        return ""
    check_needs(slug, data)
    kinds = kinds_of(methods.get(slug), data, settings)
    module, _, name = paper["class_path"].rpartition(".")
    meant = getattr(importlib.import_module(module), name).modality
    if meant in (*kinds, None, ""):
        return ""
    held = modalities.get(kinds[0]).words
    return f"note: the paper's views are for {modalities.get(meant).words}; of {held} the default ones are taken"


def build_method(
    slug: str, data: Data, settings: TrainSettings, checked: Any, ready: Mapping[str, Encoder] | None = None
) -> tuple[Method, list[str]]:
    """A fresh method; `ready` replaces encoders (by kind) that are made already."""
    cls = methods.get(slug)
    check_needs(slug, data)
    kinds = kinds_of(cls, data, settings)
    made = [encoder_at(place, kinds, data, settings, ready or {}) for place in range(len(kinds))]
    torch.manual_seed(settings.seed + 1)
    arguments = options.instantiate(targets_of(slug), checked)
    method = cls(*made, **arguments)
    roles = roles_of(data) - ({"group"} if settings.by == "columns" else set())
    by_group = prefers_groups(data, settings) and len(set(kinds)) == 1
    method.columns({modalities.get(kinds[0]).roles[0], "group"} if by_group else roles)
    return method, kinds


def check_settings(settings: TrainSettings) -> None:
    """Raises InputError for what would fail on any data: an optimiser, a device, an encoder that is not there."""
    if settings.optimiser != "auto":
        check_optimiser(settings.optimiser, settings.betas)
    cards = torch.cuda.device_count()
    if settings.device == "cuda" and not cards:
        raise InputError("--device cuda: there is no CUDA device here (torch sees none).", "Use --device cpu or auto.")
    if settings.device != "cpu" and settings.devices > cards > 0:
        raise InputError(f"--devices {settings.devices}: there are {cards} GPUs here.", "Ask for so many at most.")
    for kind in modalities.everyone():
        kind.check(settings.of(kind))
    if settings.model is not None:
        check_model(settings)
    check_shape(settings, any(pretrained(kind.name, settings) for kind in modalities.everyone()))
    check_loggers(names_of(settings.logger))
    if settings.dims is not None:
        nesting(settings.dims, settings.dims_weights)
    check_teacher(settings)
    if settings.dims is None and settings.dims_weights is not None:
        raise InputError("--dims-weights weighs the widths of --dims, and none are named.", "Add --dims 256,128,64.")


def check_model(settings: TrainSettings) -> None:
    """Raises InputError for a model to start from that is none, and beside it options of encoders, which it brings."""
    for name in kinds_in(str(settings.model)):
        kind = modalities.get(name)
        given, usual = dataclasses.asdict(settings.of(kind)), dataclasses.asdict(kind.options())
        other = next((option for option in given if given[option] != usual[option]), None)
        if other is not None:
            raise InputError(f"--model {settings.model} brings its own encoder of {kind.words}.",
                             f"Leave out --{other.replace('_', '-')}.")  # fmt: skip


def prepare(
    slug: str,
    data: Data,
    settings: TrainSettings,
    given: Mapping[str, Any],
    *,
    cache: Path | None = None,
    ready: Mapping[str, Encoder] | None = None,
) -> Setup:
    """Everything before the first step. Raises InputError early, before anything is written."""
    settings = suited(settings, slug)
    checked, foreign = own_options(slug, data, given, settings)
    method, kinds = build_method(slug, data, settings, checked, ready)
    check_layer(method, settings.layer)
    check_possible(method, settings)
    said = check_shaped(method, settings) + check_sharded(method, settings)
    widths = None if settings.dims is None else nest(method, nesting(settings.dims, settings.dims_weights)).widths
    rows, method.seed = training_rows(method, data), settings.seed
    torch.manual_seed(settings.seed + 3)
    began = time.perf_counter()
    method.prepare(data, rows)
    seconds = time.perf_counter() - began
    drawn = draw_batches(method, data, rows, kinds, settings, cache)
    if settings.class_balanced:
        said.append(balance_note(method, data, rows))
    if settings.distil_from is not None:
        method.distiller = distiller_of(method, data, rows, settings, cache)
        said.append(f"taught by the vectors of {settings.distil_from} ({settings.distil_loss})")
    loader = drawn.loader
    facts: Facts = loader.facts(len(rows), tuple(data.target_names), tuple(data.domain_names))
    method.micro, method.sharded = settings.micro_batch, settings.strategy == "fsdp"
    paper = methods.get(slug).training_preset(vars(checked)) if settings.preset == "paper" else {}
    items = loader.batch_size * settings.accumulate
    method.optimisation = auto_optimisation(settings, loader.steps, drawn.known, kinds, items, paper)
    resolved = resolved_settings(method, data, kinds, settings, loader, widths)
    torch.manual_seed(settings.seed + 2)
    resolved |= method.attach(facts)
    notes = [*([foreign] if foreign else []), *said, *notes_of(method, data, drawn.words, drawn.left_out)]
    told = {name: value for name, value in resolved.items() if value is not None}
    setup = Setup(method, loader, settings, options.plain(checked), told, rows, kinds, seconds, notes,
                  drawn.prescribed)  # fmt: skip
    method.survey = survey_of(setup, data)
    if settings.compile:
        compile_encoders(method)
    return setup


def own_options(slug: str, data: Data, given: Mapping[str, Any], settings: TrainSettings) -> tuple[Any, str]:
    """Checked options of a method, and a note where the paper's views do not suit the data and the default ones are
    taken; else ""."""
    checked = method_options(slug, given, settings.preset)
    foreign = views_of_another_kind(slug, data, given, settings, checked)
    return method_options(slug, {**given, "views": None}, settings.preset) if foreign else checked, foreign


@dataclass(frozen=True)
class Drawn:
    """How the batches of a run come. `known`: whether an encoder that is trained was pretrained; `prescribed`: the
    batch size, where the method draws batches of its own size; `words`: what such a batch is; `left_out`: what is
    never drawn."""

    loader: Loader
    known: bool
    prescribed: int | None
    words: str
    left_out: str


def draw_batches(
    method: Method, data: Data, rows: np.ndarray, kinds: Sequence[str], settings: TrainSettings, cache: Path | None
) -> Drawn:
    """Batch size, steps and the loader of both. rows: the training rows, which the method is prepared for."""
    table = sampled_rows(method, data, rows)
    draw = samplers_of(method, data, settings.class_balanced)
    sampler = draw(0).over(table, 1, settings.seed)
    if not sampler.identified:
        check_stream(method, settings)
    prescribed = sampler.prescribed(sampler.table)
    usual = min((modalities.get(kind).usual_batch(sampler.sizing) for kind in kinds), default=128)
    batch = enough(prescribed or auto_batch(settings, sampler.sizing, method.slug, usual), settings)
    sampler = draw(0).over(table, batch, settings.seed)
    known = any(pretrained(k, settings) and trains(method, k) for k in kinds)
    steps = auto_steps(settings, max(1, sampler.epoch_steps // settings.accumulate), known) if method.trained else 0
    if method.trained and settings.warmup != "auto" and settings.warmup >= steps:
        raise InputError(
            f"A warm-up of {settings.warmup} steps does not end within the {steps} steps of the run.",
            "Use a smaller --warmup or more --steps.",
        )
    loader = make_loader(method, data, table, steps, batch, settings, cache, draw)
    return Drawn(loader, known, prescribed, drawn_of(sampler, prescribed), sampler.left_out)


def check_stream(method: Method, settings: TrainSettings) -> None:
    """Raises InputError for what a stream of text, which has no rows, does not give."""
    if method.needs_rows:
        raise InputError(
            "These negatives look at all training rows, but a stream of text has none.", "Use --stream false."
        )
    if settings.distil_from is not None:
        raise InputError("--distil-from asks a teacher about training rows, but a stream of text has none.",
                         "Use --stream false.")  # fmt: skip


def resolved_settings(
    method: Method, data: Data, kinds: Sequence[str], settings: TrainSettings, loader: Loader,
    widths: Sequence[int] | None,
) -> dict[str, Any]:  # fmt: skip
    """What each "auto" of the settings became."""
    own = [kind for kind in kinds if settings.model is None or kind not in kinds_in(settings.model)]
    found: dict[str, Any] = {"batch_size": loader.batch_size, "steps": loader.steps}
    for kind in own:
        found |= modalities.get(kind).resolved(options_of(kind, data, settings))
    return found | {
        "dims": None if widths is None else "+".join(map(str, widths)),
        "optimiser": method.optimisation.describe(),
        "lr": method.optimisation.lr,
        "warmup": method.optimisation.warmup,
    }


def has_target(data: Data, kind: str) -> np.ndarray:
    """Which rows have a target of a kind, bool (N,); of bags those whose bag has a label."""
    if kind == "numbers":
        assert data.target_values is not None
        return np.isfinite(data.target_values)
    return (np.asarray(data.targets) if kind == "classes" else bag_targets(data)[1]) >= 0


def check_possible(method: Method, settings: TrainSettings) -> None:
    """Raises where the method cannot be trained as the settings ask."""
    name, together = method.slug, settings.devices * settings.nodes
    if settings.micro_batch is not None and not (method.splits and not method.in_turn):
        raise InputError(
            f"'{name}' cannot be computed in micro-batches: its loss needs the whole batch in one pass.",
            "Leave out --micro-batch, or use a smaller --batch-size.",
        )
    if settings.accumulate > 1 and method.in_turn:
        raise InputError(
            f"'{name}' updates its parts in turn, each with a step of its own: gradients of several batches cannot be "
            "added up.",
            "Leave out --accumulate, or use a larger --batch-size.",
        )
    if together > 1 and not (method.distributed and method.trained):
        raise InputError(
            f"'{name}' needs every batch whole on one process; {together} were asked for.",
            "Use --devices 1 and --nodes 1.",
        )


def drawn_of(sampler: Sampler, prescribed: int | None) -> str:
    """A batch of the sampler's own size, in words; "" where there is none."""
    if prescribed is None:
        return ""
    return f"{prescribed} {sampler.word}" + (f" ({sampler.members} rows of each)" if sampler.members > 1 else "")


def notes_of(method: Method, data: Data, drawn: str, left_out: str = "") -> list[str]:
    """What the reader should know of how a method takes these data."""
    found = []
    if method.target is not None and not method.unlabelled:
        lacking = int((~has_target(data, method.target)[np.asarray(data.splits["train"])]).sum())
        if lacking:
            found.append(f"note: {lacking:,} training rows without a target are left out")
    if method.target == "classes" and data.target_values is not None and (data.target_values % 1 > 0).any():
        found.append(
            f"note: the target '{data.roles['target']}' holds numbers with fractions; each is taken as a class"
        )
    if whole_set(method):
        found.append(
            "note: trained on all rows, those of validation and test among them; nothing is seen of their labels"
        )
    if drawn:
        found.append(f"note: every batch has {drawn}, as the method draws them")
    if left_out:
        found.append(f"note: training rows {left_out} are in no batch")
    if not method.trained:
        found.append("note: nothing is trained; steps, batches and the optimiser have no effect")
    return found


def check_batch(setup: Setup) -> None:
    """Raises where a batch size is asked for and the method draws batches of its own size."""
    own, asked = setup.prescribed, setup.settings.batch_size
    if own is not None and asked not in ("auto", own):
        raise InputError(
            f"'{setup.method.slug}' draws batches of {drawn_of(setup.loader.sampler, own)} itself; "
            f"--batch-size {asked} does not fit.",
            "Leave out --batch-size; the method's own options decide.",
        )


def sampled_rows(method: Method, data: Data, rows: np.ndarray) -> Rows:
    """What samplers may know of the training rows."""
    further = {"target": data.targets, "domain": data.domains, "bag": data.bags}
    labels = dict(data.labels) | {name: values for name, values in further.items() if values is not None}

    def tokens(role: str) -> TokenStore:
        encoder: Any = method.towers()[role].encoder
        return TokenStore(encoder.encode_ids(list(data.texts(role))), encoder.special.length - encoder.special.frame)

    return Rows(rows, data.groups, labels, functools.cache(tokens), data.alternatives)


def training_rows(method: Method, data: Data) -> np.ndarray:
    """The training rows that a method learns from: where rows are pairs, those that belong together, unless the loss
    reads how far they do."""
    rows = np.asarray(data.splits["train"])
    if whole_set(method):
        rows = np.arange(len(data))
    if method.target is not None and not method.unlabelled:
        rows = rows[has_target(data, method.target)[rows]]
        if not len(rows):
            raise InputError(
                f"No training row has a target, from which '{method.slug}' learns.", "Check the column of --target."
            )
    if not method.paired or method.graded or data.positives is None:
        return rows
    rows = rows[data.positives[rows]]
    if not len(rows):
        raise InputError(
            "No training pair belongs together: all are labelled 0 or score low.",
            "Check the columns of --pair-label, --score and --split.",
        )
    return rows


def whole_set(method: Method) -> bool:
    """Whether a method is trained on all rows: of items that are seen through each other, by what sees no labels."""
    read = [modalities.of(role) for role in method.reads]
    encoders = [tower.encoder for tower in method.towers().values()]
    seen = all(kind.transductive for kind in read) and all(encoder.transductive for encoder in encoders)
    return bool(read) and seen and not method.supervised and method.target is None


def check_layer(method: Method, layer: int | None) -> None:
    """Raises before any training where the measured layer is none of the image encoder's."""
    made: list[Any] = [t.encoder for t in method.towers().values()]
    for one in made:
        encoder: Any = unfrozen(one)
        if layer is not None and hasattr(encoder, "check_layer"):
            encoder.check_layer(layer)


def trains(method: Method, kind: str) -> bool:
    """Whether a method changes the encoder of one kind of data (and does not keep it frozen)."""
    made = [t.encoder for t in method.towers().values() if t.encoder.modality == kind]
    return any(p.requires_grad for encoder in made for p in encoder.parameters())


def enough(batch: int, settings: TrainSettings) -> int:
    """The batch size; raises where there is not an item a process."""
    together = settings.devices * settings.nodes
    if batch < together:
        raise InputError(
            f"{together} processes cannot share a batch of {batch} items.",
            "Use a larger --batch-size or fewer devices.",
        )
    return batch


def auto_batch(settings: TrainSettings, items: int, slug: str, usual: int) -> int:
    """What is usual for the kind of data, unless a size was asked for."""
    if settings.batch_size == "auto":
        if items < 4:
            raise InputError(f"There are only {items} training items: contrast needs more.", "Add data.")
        return usual
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


def auto_optimisation(
    settings: TrainSettings, steps: int, known: bool, kinds: Sequence[str], batch: int, paper: Mapping[str, Any]
) -> Optimisation:
    """How weights are updated: what was asked for, else the paper's (`paper`, empty without --preset paper), else what
    fits the encoder. batch: items of an optimiser step."""
    scratch = [kind.learning_rate(settings.of(kind)) for kind in map(modalities.get, kinds)]
    fine = 5e-5 if settings.lora is None else 2e-4
    usual = fine if known else max(scratch, default=1e-3)
    if "lr" in paper:
        usual = paper["lr"] * (batch / paper["lr_batch"] if "lr_batch" in paper else 1)
    own = settings.optimiser in ("auto", paper.get("optimiser", "adamw"))  # the paper's betas are of its optimiser
    values = {
        "optimiser": ("auto", paper.get("optimiser", "adamw")),
        "lr": ("auto", usual),
        "weight_decay": ("auto", paper.get("weight_decay", 1e-2)),
        "schedule": ("auto", paper.get("schedule", "cosine")),
        "betas": (None, paper.get("betas") if own else None),
        "clip_norm": (None, paper.get("clip_norm")),
    }
    asked = {k: getattr(settings, k) for k in values}
    found = {k: usual if asked[k] == unset else asked[k] for k, (unset, usual) in values.items()}
    final = paper.get("final", 0.0) if settings.final_lr == "auto" else settings.final_lr
    rest: dict[str, Any] = {} if settings.layer_decay is None else {"layer_decay": settings.layer_decay}
    warmup = steps // 20 if settings.warmup == "auto" else int(settings.warmup)
    rest |= {k: paper[k] for k in ("momentum", "eps", "decay_all", "adapt_all") if k in paper and own}
    return Optimisation(warmup=warmup, final=float(final), **found, **rest)


def make_loader(
    method: Method, data: Data, table: Rows, steps: int, batch: int, settings: TrainSettings, cache: Path | None,
    draw: Draw,
) -> Loader:  # fmt: skip
    def read(role: str) -> Inputs:
        return role_inputs(method, data, role, cache)

    loader = Loader(
        method, data, table, read, steps=steps, batch_size=batch, seed=settings.seed, accumulate=settings.accumulate,
        draw=draw,
    )  # fmt: skip
    if method.trained:
        _ = loader.inputs  # read, tokenised or embedded once, before anything else takes time
    if method.paired:
        loader.pair(data, *loader.roles, graded=method.graded)
        if not method.graded:
            drawn = method.drawn_negatives(data)
            loader.negatives = hard_negatives(method, data, loader.roles, loader.inputs) if drawn is None else drawn
    return loader


def hard_negatives(
    method: Method, data: Data, roles: Sequence[str], inputs: Mapping[str, Inputs]
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


def role_inputs(method: Method, data: Data, role: str, cache: Path | None) -> Inputs:
    """What views take of a role; of a frozen encoder its features, computed once."""
    encoder: Any = method.towers()[role].encoder
    kind = modalities.of(role)
    if not isinstance(encoder, Frozen):
        if (own := method.reader(data, role)) is not None:
            return own
        raw = kind.reader(data, role, encoder, method.length).raw
        return (lambda rows, rng: raw(rows, None)) if method.from_start else raw
    size = getattr(encoder.encoder, "size", None)
    made = encoder.features(kind.items(data, role, None, size), cache=cache, key=f"{data.hash}-{role}-{size}")

    def read(rows: np.ndarray, rng: np.random.Generator | None) -> Features:
        return Features(torch.from_numpy(np.ascontiguousarray(made[rows])))

    return read
