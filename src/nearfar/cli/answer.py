"""`nearfar predict` and `nearfar generate`: what a model answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from nearfar import options, stores, terminal
from nearfar.checks import Range, Seed
from nearfar.cli import help as helping
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, parse, show_help, wants_help
from nearfar.errors import InputError
from nearfar.training.settings import DataSettings


@dataclass
class PredictOptions:
    """Of which rows, and where the answers go.

    Args:
        out: FILE.csv, .tsv, .jsonl or .parquet, also as a URL (s3://...); default the first rows are shown.
        on: which rows are asked about: all, or those of a split.
        batch_size: rows that pass the encoder at once.
        variant: which of the vectors of one input is used, where the model gives several.
    """

    out: str | None = None
    on: Literal["all", "train", "val", "test"] = "all"
    batch_size: Annotated[int, Range(1, 1_000_000)] = 256
    variant: str | None = None


@dataclass
class GenerateOptions:
    """What is generated from, and where it goes.

    Args:
        prompts: text file with a prompt on each line, in place of those on the command line.
        out: FILE.txt or FILE.jsonl of texts, or a folder of images, also as a URL; default texts are shown.
        seed: of what is drawn.
    """

    prompts: str | None = None
    out: str | None = None
    seed: Seed = 0


def answers(words: list[str], base: list[Any], usage: str, *verbs: str) -> tuple[list[str], Any, dict[str, Any], Any]:
    """Positional words, checked options, those of the model's own among them, and the loaded model."""
    if wants_help(words) and not any(names_model(word) for word in words):
        named = "; one of texts takes classes by their names (--classes, --templates, --top)" * ("predict" in verbs)
        verb = usage.split()[1]
        said = f"A model may have options of its own{named}: nearfar {verb} MODEL --help"
        show_help(usage, base, f"\n{helping.paragraph(said)}\n")
    from nearfar import answering

    named = [word for word in words if not word.startswith("-")]
    if not named:
        raise InputError(f"Expected: {usage}.", "Got 0 arguments.")
    first = named[0] if words[0] == named[0] else next((w for w in named if names_model(w)), named[0])
    model, module = answering.answering(first, *verbs)
    targets = [*base, module.options]
    places, given = parse(words, targets, range(1, 1000), usage)
    checked = options.checked(targets, given)
    return places, checked, {name: given[name] for name in options.names([module.options]) if name in given}, model


def names_model(word: str) -> bool:
    return stores.is_url(word) or Path(word).is_dir()


def run_predict(words: list[str]) -> None:
    usage = "nearfar predict MODEL DATA [--out FILE]"
    places, checked, own, model = answers(words, [PredictOptions, Output, DataSettings], usage, "predict", "score")
    if len(places) != 2:
        raise InputError(f"Expected: {usage}.", f"Got {len(places)} arguments: {' '.join(places)}.")
    from nearfar import answering

    with tables.bar("predicting") as progress:
        found = answering.predict(
            model,
            places[1],
            out=checked.out,
            on=checked.on,
            batch_size=checked.batch_size,
            variant=checked.variant,
            progress=progress,
            data_settings=options.build(DataSettings, checked),
            **own,
        )
    if checked.json:
        emit({"path": found.path, "rows": found.rows()})
    else:
        tables.predictions(found)


def run_generate(words: list[str]) -> None:
    usage = "nearfar generate MODEL [PROMPT...] [--out X]"
    places, checked, own, model = answers(words, [GenerateOptions, Output], usage, "generate")
    from nearfar import answering

    if checked.prompts is not None and len(places) > 1:
        raise InputError("Prompts are given twice: in a file and on the command line.", "Leave one of them out.")
    prompts = places[1:] if checked.prompts is None else lines_of(checked.prompts)
    made = answering.generate(model, prompts, out=checked.out, seed=checked.seed, **own)
    texts = all(isinstance(one, str) for one in made)
    if not texts and checked.out is None:
        raise InputError("This model makes images: where to?", "Add --out FOLDER.")
    if checked.json:
        emit({"path": checked.out, "made": made if texts else len(made)})
    elif checked.out is not None:
        terminal.say(f"{checked.out}: {len(made)} {'texts' if texts else 'images'}", sys.stdout)
    else:
        for one in made:
            terminal.say(one, sys.stdout)


def lines_of(path: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        found = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompts in '{path}' cannot be read: {error}.", "Give a text file.") from error
    if not found:
        raise InputError(f"'{path}' holds no prompt.", "Write one on each line.")
    return found
