"""What `fit` and `compare` take beside a method's own options: where the data are, and how to train.

The columns of each kind of data and the options of its encoder are fields as well: its file says them, and they stand
first (`_grow`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from nearfar import modalities
from nearfar.checks import (
    MOST,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    Seed,
    ShareBelowOne,
    UnitInterval,
    check_fields,
)
from nearfar.modality import field_names
from nearfar.registry import MODALITIES, TASKS
from nearfar.training.growing import Added, grown

C = TypeVar("C", bound=type)


@dataclass
class DataSettings:
    """Which columns play which role, and what to do with rows that cannot be read.

    Args:
        negative: columns of hard negatives, separated by commas.
        pair_label: column that says whether the two sides of a row belong together: 1 or 0, or words such as
            entailment.
        score: column of numbers that say how far the two sides of a row belong together.
        score_range: the ends of the scale of --score, as 0,5: a score beyond them is an error (or a row that is left
            out).
        label: columns of labels, separated by commas.
        group: column whose equal values mark rows that are positives of each other (drawings of one emoji).
        target: column of what is to be learned, labels or numbers, by methods that see it. Those that learn labels
            take the first column of --label where no target is named.
        bag: column whose equal values make rows the members of one bag, which is labelled as a whole.
        tree: column of annotation trees (domain, intent, slot, value) in JSON; those of dialogues are found.
        attribute: columns of attributes, separated by commas, that tell an item together with its object (wet dog).
            Without a column of splits some pairs are held out of training.
        object: column of the objects that --attribute describes (dog).
        class_attributes: file of the attributes of each class of --target (csv, tsv: class and a number for each
            attribute; json: {class: [attributes]}). Without a column of splits some classes are held out of training.
        unit: column of what a split must not divide (all images of one patient); default the group, the bag, else
            the content.
        domain: column of domains (styles, languages, fields) between which retrieval is measured; a model with experts
            of domains routes each row by it.
        split: column of splits, or a named split of a built-in data set; of interactions also leave-one-out (the
            default: each user's last one is tested, the one before validates) or by-time.
        titles: a table of ids and titles of --item.
        time: column of the times of interactions.
        id: column of names of the rows, by which `embed` and `search` know them (key:NAME).
        unreadable: error stops at the first row that cannot be read, skip leaves it out and counts it.
        limit: read at most so many rows.
        split_seed: seed of the split; the same for every run that is to be compared.
        clean: rules that drop rows of noisy pairs: align (as in its paper), with options of their own if wanted:
            "align --short-side 64". Default none.
        series_window: cut long time series into runs of so many steps, in order of time. Default none.
        strict: refuse data of which two splits share an image or text, a group or a unit.
    """

    negative: str | None = None
    pair_label: str | None = None
    score: str | None = None
    score_range: str | None = None
    label: str | None = None
    group: str | None = None
    target: str | None = None
    bag: str | None = None
    tree: str | None = None
    attribute: str | None = None
    object: str | None = None
    class_attributes: str | None = None
    unit: str | None = None
    domain: str | None = None
    split: str | None = None
    titles: str | None = None
    time: str | None = None
    id: str | None = None
    unreadable: Literal["error", "skip"] = "error"
    limit: PositiveInt | None = None
    split_seed: Seed = 0
    clean: str | None = None
    series_window: PositiveInt | None = None
    strict: bool = False

    def __post_init__(self):
        check_fields(self)

    @classmethod
    def none_stays(cls) -> list[str]:
        """The columns: "none" takes a role away, while no value leaves it to be guessed."""
        others = (
            "split",
            "titles",
            "unreadable",
            "limit",
            "split_seed",
            "strict",
            "clean",
            "score_range",
            "series_window",
            "class_attributes",
        )
        return [f.name for f in dataclasses.fields(cls) if f.name not in others]

    def roles(self) -> dict[str, str | list[str]]:
        """The roles that the user named."""
        from nearfar.sources.roles import takes_several

        found: dict[str, str | list[str]] = {}
        for name in self.none_stays():
            value = getattr(self, name)
            if value is not None:
                several = takes_several(name) and value != "none"
                found[name] = [v.strip() for v in value.split(",")] if several else value
        return found

    def open(self, spec: Any) -> Any:
        from nearfar import sources
        from nearfar.sources.leaks import refuse

        if isinstance(spec, sources.Data):
            if self.strict:
                refuse(spec)
            return spec
        return sources.open_data(
            spec,
            roles=self.roles() or None,
            split=self.split,
            seed=self.split_seed,
            unreadable=self.unreadable,
            limit=self.limit,
            strict=self.strict,
            clean=self.clean,
            score_range=self.score_range,
            titles=self.titles,
            window=self.series_window,
            class_attributes=self.class_attributes,
        )


def with_tasks(cls: C) -> C:
    """Class decorator: the names of all tasks stand in place of {tasks} in its docstring."""
    cls.__doc__ = (cls.__doc__ or "").replace("{tasks}", ", ".join(TASKS.names()))
    return cls


@with_tasks
@dataclass
class TrainSettings:
    """How to train. What is "auto" follows a documented rule of the data and is printed.

    Args:
        model: start from all encoders of a model, with the heads that lead into its space: the folder of a nearfar
            model, or of a CLIP, SigLIP or other model of transformers.
        lora: rank of low-rank adapters (LoRA), which are trained in place of the pretrained encoders and added to their
            weights in the finished model; needs nearfar[lora].
        freeze: keep the encoders as they are and train heads on features computed once.
        freeze_stages: keep of a pretrained encoder the embeddings and so many of its first stages as they are: blocks
            of a transformer, stages of a convolutional network; 0: the embeddings alone.
        by: what pairs are made of where the data hold both: columns (two items of one row, an image and its caption)
            or group (two rows of one --group). auto: what the data set is about.
        task: what is measured: {tasks}; with options of its own if wanted: "few-shot --ways 3". auto: what the method
            names, else the first that the data hold.
        variant: which of the vectors of one input is measured, where the method gives several; default the plain ones.
        layer: of the image encoder, from 1 on, whose map dense measurement reads; default the last.
        dims: widths, as 256,128,64: the loss is computed for the first numbers of the vectors too, so that these are
            vectors of their own (Matryoshka); the whole is always among them.
        dims_weights: the weight of each of --dims in the loss; default 1 each.
        distil_from: a frozen teacher beside the loss of the method: the folder of a model, or files of vectors that
            `embed` wrote (for two columns one each, divided by a comma).
        distil_loss: what is learned of the teacher: relations (which items are near which; its vectors may have
            another width) or cosine (its vectors).
        distil_weight: of the teacher's term.
        distil_temperature: by which similarities are divided in relations.
        batch_size: items that contrast with each other. auto: 128, or a quarter of the items if that is less.
        class_balanced: draw rows so that every class of the label comes equally often; an epoch is as many rows as have
            a label.
        micro_batch: most items that pass the encoder at once on a device; the whole batch still contrasts, with exact
            gradients.
        gradient_checkpointing: keep of each block of the encoders its input alone and compute the block again in the
            backward pass: less memory and more time for the same gradients.
        compile: translate the encoders by torch.compile before the first step, for as long as they train; what is
            measured runs as it is. It pays on GPUs, and needs a C++ compiler.
        accumulate: batches whose gradients are added up for one optimiser step. They do not contrast with each other:
            for more negatives use --batch-size with --micro-batch.
        steps: optimiser steps. auto: 50 epochs within 200 and 3000 steps; 3 epochs for a pretrained encoder.
        optimiser: any name that timm knows: adamw, sgd, lars, lamb... each as its paper has it, without hidden
            clipping. auto: adamw, or the paper's with --preset paper.
        lr: peak learning rate. auto: 2e-3 (small image encoder), 1e-3 (others from scratch), 5e-5 (pretrained), 2e-4
            (with --lora); with --preset paper the paper's, in proportion to the batch where the paper scales it.
        layer_decay: share by which the learning rate falls from each block of the encoders to the one before, as 0.75
            for a large pretrained one; heads learn at the full rate.
        weight_decay: of weights that are not biases or norms. auto: 0.01, or the paper's with --preset paper.
        betas: the two betas of Adam and its kind, for example 0.9,0.98; default the optimiser's own, or the paper's
            with --preset paper.
        clip_norm: largest norm of all gradients together; default no clipping.
        warmup: steps of linear rise from 0. auto: a twentieth of the steps.
        schedule: cosine, linear or constant after the warm-up. auto: cosine, or the paper's with --preset paper.
        final_lr: the floor on which the schedule ends, as a share of the peak. auto: 0, or the paper's with --preset
            paper.
        precision: 32, bf16 or 16 (mixed).
        seed: of weights, order and views.
        val_every: steps between measurements on validation data. auto: ten in a run, at least 50 apart; 0 for none.
        patience: end a run after so many measurements on validation data in a row that are no better, and keep the
            model that was the best; a number that is never reached keeps the best and trains all steps.
        save_every: steps between checkpoints. auto: twenty in a run.
        logger: the learning curve also for tensorboard, wandb (offline), mlflow or csv, or several of them divided by
            commas, in the run's folder under logs/.
        preset: auto fits the defaults to the data, paper takes the paper's literals: of the method, its parts and its
            optimiser. Steps, batch and warm-up follow the data.
        device: cpu, cuda or auto.
        devices: GPUs (or processes on a CPU) of each machine that share every batch and contrast all of it.
        nodes: machines that train together, each started with the same command (torchrun, SLURM).
        strategy: how several processes share a model: ddp (each holds all of it) or fsdp (the blocks of the encoders,
            their gradients and the moments of the optimiser are divided among them, for encoders that do not fit).
    """

    model: str | None = None
    lora: Annotated[int, Range(1, 1024)] | None = None
    freeze: bool = False
    freeze_stages: Annotated[int, Range(0, 1000)] | None = None
    by: Literal["auto", "columns", "group"] = "auto"
    task: str = "auto"
    variant: str | None = None
    layer: PositiveInt | None = None
    dims: str | None = None
    dims_weights: str | None = None
    distil_from: str | None = None
    distil_loss: Literal["relations", "cosine"] = "relations"
    distil_weight: PositiveFloat = 1.0
    distil_temperature: PositiveFloat = 0.1
    batch_size: Annotated[int, Range(2, MOST)] | Literal["auto"] = "auto"
    class_balanced: bool = False
    micro_batch: PositiveInt | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    accumulate: PositiveInt = 1
    steps: PositiveInt | Literal["auto"] = "auto"
    optimiser: str = "auto"
    lr: PositiveFloat | Literal["auto"] = "auto"
    layer_decay: PositiveShare | None = None
    weight_decay: NonNegativeFloat | Literal["auto"] = "auto"
    betas: tuple[ShareBelowOne, ShareBelowOne] | None = None
    clip_norm: PositiveFloat | None = None
    warmup: NonNegativeInt | Literal["auto"] = "auto"
    schedule: Literal["auto", "cosine", "linear", "constant"] = "auto"
    final_lr: UnitInterval | Literal["auto"] = "auto"
    precision: Literal["32", "bf16", "16"] = "32"
    seed: Seed = 0
    val_every: NonNegativeInt | Literal["auto"] = "auto"
    patience: PositiveInt | None = None
    save_every: PositiveInt | Literal["auto"] = "auto"
    logger: str | None = None
    preset: Literal["auto", "paper"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    def __post_init__(self):
        check_fields(self)
        if self.task != "auto":
            TASKS.check(self.task.partition(" ")[0])

    def of(self, kind: modalities.Modality) -> Any:
        """The options of the encoder of one kind of data."""
        return kind.options(**{name: getattr(self, name) for name in field_names(kind.options)})


def _grow() -> None:
    """Gives both classes the fields of the kinds of data that are known now."""
    kinds = modalities.everyone()
    columns = [(role, kind) for kind in kinds for role in (*kind.roles, *kind.companions)]
    columns.sort(key=lambda pair: pair[0] in pair[1].companions)
    grown(DataSettings, [Added(role, str | None, None, kind.described.get(role, f"column of {kind.words}"))
                         for role, kind in columns])  # fmt: skip
    grown(TrainSettings, [one for kind in kinds for one in Added.of(kind.options)])


MODALITIES.watch(_grow)
