"""What `fit` and `compare` take beside a method's own options: where the data are, and how to train."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from nearfar.errors import InputError
from nearfar.limits import MOST_SIDE


@dataclass
class DataSettings:
    """Which columns play which role, and what to do with rows that cannot be read.

    Args:
        image: column of pictures.
        image_b: second column of pictures.
        text: column of texts.
        text_b: second column of texts.
        mask: column of masks, pictures whose pixels are classes (0 to 254; 255 is left out).
        negative: columns of hard negatives, separated by commas.
        label: columns of labels, separated by commas.
        group: column whose equal values mark positives of each other.
        unit: column of what must not be divided by a split; default the group, else the content.
        domain: column of domains (styles, languages) between which retrieval is measured.
        split: column of splits, or a named split of a built-in data set.
        time: column of times.
        id: column of names of the rows.
        unreadable: error stops at the first row that cannot be read, skip leaves it out and counts it.
        limit: read at most so many rows.
        split_seed: seed of the split; the same for every run that is to be compared.
        strict: refuse data of which two splits share a picture or text, a group or a unit.
    """

    image: str | None = None
    image_b: str | None = None
    text: str | None = None
    text_b: str | None = None
    mask: str | None = None
    negative: str | None = None
    label: str | None = None
    group: str | None = None
    unit: str | None = None
    domain: str | None = None
    split: str | None = None
    time: str | None = None
    id: str | None = None
    unreadable: Literal["error", "skip"] = "error"
    limit: int | None = None
    split_seed: int = 0
    strict: bool = False

    def roles(self) -> dict[str, str | list[str]]:
        """The roles that the user named."""
        found: dict[str, str | list[str]] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("split", "unreadable", "limit", "split_seed", "strict") or value is None:
                continue
            found[f.name] = [v.strip() for v in value.split(",")] if f.name in ("negative", "label") else value
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
        )


@dataclass
class TrainSettings:
    """How to train. What is "auto" follows a documented rule of the data and is printed.

    Args:
        encoder: picture encoder: small (4 conv layers), or any name that timm knows.
        image_size: pixels a side. auto: 32 for pictures of at most 64 pixels a side, else 64 (small) or 224 (timm).
        channels: rgb, or orientation for gradient-orientation channels beside them.
        weights: file of weights (safetensors) for the picture encoder, or the folder of a nearfar model with such an
            encoder.
        text_encoder: small (trained from scratch with a tokenizer of its own), minilm (packaged), or the folder of a
            transformers or sentence-transformers model.
        text_length: most tokens of a text that the encoder reads, the special ones included; default what the encoder
            takes. Fewer make training on long texts much cheaper.
        vocabulary: size of the vocabulary of a small text encoder.
        freeze: keep the encoders as they are and train heads on features computed once.
        by: what pairs are made of where the data hold both: columns or group. auto: what the data set is about.
        task: what is measured: dense (masks), pairs, groups, labels, few-shot, proxy. auto: the first that the data
            hold.
        layer: of the picture encoder, from 1 on, whose map dense measurement reads; default the last.
        batch_size: items that contrast with each other. auto: 128, or a quarter of the items if that is less.
        micro_batch: most items that pass the encoder at once on a device; the whole batch still contrasts, with exact
            gradients.
        accumulate: batches whose gradients are added up for one optimiser step. They do not contrast with each other:
            for more negatives use --batch-size with --micro-batch.
        steps: optimiser steps. auto: 50 epochs within 200 and 3000 steps; 3 epochs for a pretrained encoder.
        optimiser: any name that timm knows: adamw, sgd, lars, lamb...
        lr: peak learning rate. auto: 2e-3 (small picture encoder), 1e-3 (timm, small text encoder), 5e-5 (pretrained).
        weight_decay: of weights that are not biases or norms.
        warmup: steps of linear rise. auto: a twentieth of the steps.
        schedule: cosine, linear or constant after the warm-up.
        precision: 32, bf16 or 16 (mixed).
        seed: of weights, order and views.
        val_every: steps between measurements on validation data. auto: ten in a run, at least 50 apart; 0 for none.
        save_every: steps between checkpoints. auto: twenty in a run.
        preset: auto fits the defaults to the data, paper takes the paper's literals.
        device: cpu, cuda or auto.
        devices: GPUs (or processes on a CPU) of each machine that share every batch and contrast all of it.
        nodes: machines that train together, each started with the same command (torchrun, SLURM).
    """

    encoder: str = "small"
    image_size: int | Literal["auto"] = "auto"
    channels: Literal["rgb", "orientation"] = "rgb"
    weights: str | None = None
    text_encoder: str = "small"
    text_length: int | None = None
    vocabulary: int = 8000
    freeze: bool = False
    by: Literal["auto", "columns", "group"] = "auto"
    task: Literal["auto", "dense", "pairs", "groups", "labels", "few-shot", "proxy"] = "auto"
    layer: int | None = None
    batch_size: int | Literal["auto"] = "auto"
    micro_batch: int | None = None
    accumulate: int = 1
    steps: int | Literal["auto"] = "auto"
    optimiser: str = "adamw"
    lr: float | Literal["auto"] = "auto"
    weight_decay: float = 1e-2
    warmup: int | Literal["auto"] = "auto"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    precision: Literal["32", "bf16", "16"] = "32"
    seed: int = 0
    val_every: int | Literal["auto"] = "auto"
    save_every: int | Literal["auto"] = "auto"
    preset: Literal["auto", "paper"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self):
        for name in ("batch_size", "steps", "image_size"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise InputError(f"{name} must be 'auto' or at least 1. Got {value}.")
        if self.image_size != "auto" and self.image_size > MOST_SIDE:
            raise InputError(f"image_size must be 'auto' or at most {MOST_SIDE}. Got {self.image_size}.")
        for name in ("micro_batch", "accumulate", "devices", "nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1. Got {value}.")
        if self.text_length is not None and self.text_length < 4:
            raise InputError(f"text_length must be at least 4. Got {self.text_length}.")
        if self.lr != "auto" and not self.lr > 0:
            raise InputError(f"lr must be 'auto' or in (0, inf). Got {self.lr}.")
        if self.batch_size == 1:
            raise InputError("batch_size 1 leaves nothing to contrast with.", "Use at least 2.")
