"""What the documentation says is true: commands parse, links lead somewhere, generated pages are up to date."""

import importlib.util
import re

import pytest

from nearfar import options
from nearfar.cli import COMMANDS
from nearfar.cli.answer import GenerateOptions, PredictOptions
from nearfar.cli.cache import CacheOptions
from nearfar.cli.common import Output
from nearfar.cli.compare import CompareOptions
from nearfar.cli.data import ReportedOptions
from nearfar.cli.demo import DemoOptions
from nearfar.cli.embed import EmbedOptions
from nearfar.cli.explore import ExploreOptions
from nearfar.cli.export import ExportOptions
from nearfar.cli.fit import FitOptions
from nearfar.cli.measure import MeasureOptions
from nearfar.cli.report import ReportOptions
from nearfar.cli.search import SearchOptions
from nearfar.cli.serve import ServeOptions
from nearfar.evaluation import tasks
from nearfar.methods import registry
from nearfar.methods.describing import DescribedOptions
from nearfar.methods.zero_shot import ByNames
from nearfar.training.comparing import entry, seconds_of, split_specs
from nearfar.training.settings import DataSettings, TrainSettings
from tests.docs import pages

TARGETS = {
    "demo": ([DemoOptions, Output], (0,)),
    "data": ([ReportedOptions, Output, DataSettings], (1,)),
    "methods": ([Output], (0, 1)),
    "compare": ([CompareOptions, Output, TrainSettings, DataSettings], (1,)),
    "evaluate": ([MeasureOptions, Output, DataSettings, *tasks.classes()], (2,)),
    "diagnose": ([MeasureOptions, Output, DataSettings, *tasks.classes()], (2,)),
    "embed": ([EmbedOptions, Output, DataSettings], (2,)),
    "predict": ([PredictOptions, Output, DataSettings, ByNames.options, DescribedOptions], (2,)),
    "generate": ([GenerateOptions, Output], range(1, 100)),
    "search": ([SearchOptions, Output], (1, 2)),
    "explore": ([ExploreOptions, DataSettings], (1, 2)),
    "serve": ([ServeOptions], (1,)),
    "export": ([ExportOptions, Output, DataSettings], (1,)),
    "report": ([ReportOptions, Output], range(1, 9)),
    "cache": ([CacheOptions, Output], (0, 1)),
}
LINES = list(dict.fromkeys((pages.name(p), line) for p in pages.PAGES for line in pages.commands(p)))


def check(words: list[str]) -> None:
    """Parses a command line with the real options of the command; raises InputError where it would."""
    from nearfar import methods

    command, rest = words[0], words[1:]
    assert command in COMMANDS
    places: list[str] = []
    if command == "fit":
        base = [FitOptions, Output, TrainSettings, DataSettings]
        slug = next((w for w in rest if w in methods.slugs()), None)
        targets, counts = ([*base, methods.get(slug)] if slug else base), ((2,) if slug else (0, 1))
    else:
        targets, counts = TARGETS[command]
    given = options.from_command_line(targets, rest, places)
    options.checked(targets, given)
    assert len(places) in counts, words
    if command == "methods" and places:
        methods.get(places[0])
    if command == "compare":
        seconds_of(given.get("budget"))
        for spec in split_specs(given.get("methods", "")):
            entry(spec)


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_lines_parse(page, line):
    words = pages.words(line)
    if "--help" not in words and "COMMAND" not in words:
        check(words)


def test_every_command_has_a_section_with_an_example():
    page = pages.ROOT / "docs" / "commands.md"
    shown = {pages.words(line)[0] for line in pages.commands(page)}
    assert set(COMMANDS) <= pages.anchors(page)
    assert set(COMMANDS) <= shown


def test_every_option_of_every_command_has_help():
    from nearfar.methods.documentation import arguments

    targets = {target for found, _ in TARGETS.values() for target in found} | {FitOptions}
    missing = [(t.__name__, name) for t in targets for name in options.signature(t) if not arguments(t).get(name)]
    assert missing == []


def test_the_parse_check_can_fail():
    from nearfar.errors import InputError

    for line in (
        "nearfar fit simclr photos --losss dcl",
        "nearfar compare photos --methods simclrr",
        "nearfar fit simclr photos --loss dcl --loss.beta 1",
    ):
        with pytest.raises(InputError):
            check(pages.words(line))


@pytest.mark.parametrize("path", pages.PAGES, ids=pages.name)
def test_links_lead_somewhere(path):
    for target in pages.links(path):
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{pages.name(path)}: {target}"
        if anchor:
            assert anchor in pages.anchors(place), f"{pages.name(path)}: {target}"


def build_docs():
    spec = importlib.util.spec_from_file_location("build_docs", pages.ROOT / "scripts" / "build_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date():
    stale = [pages.name(p) for p, text in build_docs().pages().items() if not p.exists() or p.read_text() != text]
    assert not stale, f"run python scripts/build_docs.py: {', '.join(stale)} out of date"


def test_the_number_of_methods_is_that_of_the_registry():
    said = re.search(r"the catalogue is (\d+) methods", (pages.ROOT / "README.md").read_text())
    assert said
    assert int(said[1]) == len(list(registry.built_in()))


def test_claims_are_shown_as_measured(tmp_path):
    import json

    results = tmp_path / "benchmarks" / "claims" / "results"
    results.mkdir(parents=True)
    (results / "dcl.json").write_text(
        json.dumps(
            {
                "claim": "DCL beats InfoNCE at a small batch",
                "data": "emoji",
                "metric": "hit@1",
                "command": "nearfar data",
                "difference": {"mean": -0.021, "interval": [-0.05, 0.008]},
                "holds": "undecided",
            }
        )
    )
    (results / "swav.json").write_text(
        json.dumps({"claim": "more crops help", "difference": {"mean": 0.03, "interval": [0.01, 0.05]}, "holds": True})
    )
    (tmp_path / "benchmarks" / "results").mkdir()
    (tmp_path / "benchmarks" / "results" / "speed.json").write_text(
        json.dumps({"unit": "samples/s", "ratios": {"lightly": {"median": 2.5, "interval": [2.25, 2.75]}}})
    )
    text = build_docs().claims(tmp_path)
    assert "| dcl | DCL beats InfoNCE at a small batch | emoji | hit@1 | -0.021 | -0.05 .. +0.008 | undecided |" in text
    assert "| +0.03 | +0.01 .. +0.05 | holds |" in text
    assert "| nearfar / lightly | 2.50 | 2.25 .. 2.75 |" in text


def test_what_use_costs_is_shown_with_how_it_grows(tmp_path):
    import json

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert "##" not in build_docs().throughput(tmp_path)

    def size(factor, recall):
        one = {"seconds": 2.0, "processor": 3.0, "peak_mib": 400.0}
        embed = {"seconds": 5.0 * factor, "processor": 1.0 + 2 * factor, "peak_mib": 400.0}
        return {"start": one | {"processor": 1.0}, "embed": embed, "search_one": one, "search_many": one,
                "index_mib": 10.0 * factor**2, "recall": recall}  # fmt: skip

    sizes = {"10000": size(1, 1.0), "100000": size(10, 0.987)}
    (tmp_path / "benchmarks" / "results" / "growth.json").write_text(json.dumps({"128": sizes}))
    text = build_docs().throughput(tmp_path)
    assert "| 100,000 | 50 | 21 | 400 | 1,000 | 2.0 | 2.0 | 400 | 98.7% |" in text
    assert "| 10,000 to 100,000 | 1.00 |  | 2.00 | 0.00 | 0.00 |" in text
    assert "took 400 MiB, within 4 GiB" in text


def test_the_speed_of_the_losses_is_shown_with_its_intervals(tmp_path):
    import json

    assert "Not measured yet." in build_docs().losses(tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    turns = [1.0 + 0.01 * i for i in range(15)]
    cell = {
        "nearfar": {"seconds": [1.0] * 15, "mib": 12.0, "value_error": 1e-7, "gradient_error": 2e-7},
        "dense": {"seconds": turns, "mib": 400.0},
        "keops": {"missing": "no module"},
        "big": {"skipped": "needs about 80 GiB"},
        "limit": {"seconds": [0.5] * 15},
    }
    (tmp_path / "benchmarks" / "results" / "loss.json").write_text(
        json.dumps(
            {
                "threads": 2,
                "gflops": 100.0,
                "temperature": 0.07,
                "versions": {"torch": "2"},
                "cells": {"clip/1024/256": cell},
            }
        )
    )
    text = build_docs().losses(tmp_path)
    assert "| rows | width | s | of the limit | MiB | dense | keops | big |" in text
    assert (
        "| 1,024 | 256 | 1.000 | 2.00 [2.00, 2.00] | 12 | 1.07 [1.03, 1.11], 400 MiB | not installed "
        "| needs about 80 GiB |"
    ) in text  # the 4th and the 12th of 15 hold the median with 96 %
    assert "| clip | 256 | nearfar | 1e-07 | 2e-07 |" in text
    assert "On a GPU" not in text
    (tmp_path / "benchmarks" / "results" / "loss_cuda.json").write_text(
        json.dumps(
            {
                "device": "a card",
                "temperature": 0.07,
                "versions": {"torch": "2"},
                "cells": {f"clip/1024/256/{inputs}": cell for inputs in ("float32", "bfloat16")},
            }
        )
    )
    text = build_docs().losses(tmp_path)
    assert "a card, temperature 0.07" in text
    assert "| rows | width | inputs | ms | of the limit | MiB | dense | keops | big |" in text
    assert text.index("| 1,024 | 256 | bfloat16 | 1000.000 |") < text.index("| 1,024 | 256 | float32 | 1000.000 |")


def test_the_demo_table_is_sorted_and_shows_intervals():
    row = {"kind": "method", "r10": 0.8, "hard_r1": 0.4, "seconds": 100.0}
    rows = [
        row | {"label": "simclr", "r1": 0.2, "interval": [0.19, 0.21], "difference": None},
        row
        | {
            "label": "pairs",
            "r1": 0.5,
            "interval": [0.48, 0.52],
            "difference": {"mean": 0.3, "interval": [0.28, 0.32]},
        },
    ]
    split = {"steps": 800, "seeds": 3, "reason": "pairs is ahead.", "rows": rows}
    text = build_docs().demo({"splits": {"unseen emoji": split}})
    assert "| **pairs** | 50.0 | 48.0 .. 52.0 | 80.0 | 40.0 | +30.0 | +28.0 .. +32.0 | 100 |" in text
    assert text.index("**pairs**") < text.index("**simclr**")
    assert text.endswith("pairs is ahead.")


def test_compositions_are_shown_as_measured(tmp_path):
    import json

    facts = {"steps": 300, "batch": 64, "seeds": 2}
    gap = {"mean": -0.01, "interval": [-0.03, 0.01]}
    row = {"kind": "method", "interval": [0.1, 0.2], "r10": 0.4, "hard_r1": 0.05}
    found = {
        "retrieval": facts | {"table": [row | {"label": "mcl", "r1": 0.15}, row | {"label": "simclr", "r1": 0.18}],
                              "gaps": [{"one": "mcl", "other": "simclr", **gap}], "reason": "simclr is ahead."},
        "stages": facts | {"table": [{"factor": "tone", "commonest": 0.2, "alone": [[0.5, 0.4], [0.6, 0.5]],
                                      "joined": [0.6, 0.6], "simclr": [0.5, 0.5], "gain": gap, "over_simclr": gap}]},
        "few-shot": facts | {"task": "Episodes.", "table": [
            {"label": "swav", "kind": "method", "shots": 1, "plain": [0.5, 0.52], "opta": [0.55, 0.57],
             "episodes": [[[0.49, 0.51], [0.51, 0.53]], [[0.54, 0.56], [0.56, 0.58]]], "mean": 0.05,
             "interval": [0.04, 0.06]}]},
    }  # fmt: skip
    (tmp_path / "docs").mkdir()
    for page in ("negatives.md", "composing.md"):
        (tmp_path / "docs" / page).write_text((pages.ROOT / "docs" / page).read_text())
    assert "Not measured yet" in build_docs().with_compositions("negatives.md", tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "compositions.json").write_text(json.dumps(found))
    text = build_docs().with_compositions("negatives.md", tmp_path)
    assert text.index("| `simclr` | 18.0 | 10.0 .. 20.0 | 40.0 | 5.0 |") < text.index("| `mcl` | 15.0 |")
    assert "| `mcl` | `simclr` | -1.0 | -3.0 .. +1.0 | undecided |" in text
    assert "| tone | 20.0 | 45.0 | 55.0 | -1.0 | -3.0 .. +1.0 | 60.0 | 50.0 | -1.0 | -3.0 .. +1.0 |" in text
    text = build_docs().with_compositions("composing.md", tmp_path)
    assert "| `swav` | 1 | 51.0 | 50.0 .. 52.0 | 56.0 | 55.0 .. 57.0 | +5.0 | +4.0 .. +6.0 |" in text


def test_the_repository_speaks_of_the_product_only():
    """No absolute paths of a machine, and drawings need nothing from elsewhere."""
    for path in pages.PAGES:
        for line in path.read_text().splitlines():
            assert "/home/" not in line, f"{pages.name(path)}: {line}"
            assert "/tmp/" not in line, f"{pages.name(path)}: {line}"
    for drawing in (pages.ROOT / "docs" / "assets").glob("*.svg"):
        text = drawing.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text, drawing.name
        assert "<title" in text, drawing.name


def test_the_optimiser_of_a_paper_is_told_with_its_clipping():
    plain = {"optimiser": "adamw", "lr": 5e-5}
    assert build_docs().trained(plain | {"clip_norm": 1.0}) == build_docs().trained(plain) + (
        ", gradients no longer than 1"
    )
