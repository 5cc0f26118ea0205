"""Which methods a comparison takes that names none, whether the time is enough for them, and `--auto`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import nearfar
from nearfar import evaluation, methods
from nearfar.errors import InputError
from nearfar.training import comparing, entries, halving
from nearfar.training.settings import TrainSettings

QUICK = {"batch_size": 16, "val_every": 0, "progress": False, "report": False, "seeds": 1}


@pytest.fixture
def table(tmp_path):
    """Two classes, told apart by their first number."""
    rng = np.random.default_rng(0)
    path = tmp_path / "t.csv"
    lines = [
        f"{k % 2 + rng.normal(0, 0.1):.3f},{rng.normal():.3f},{rng.normal():.3f},{'xy'[k % 2]}" for k in range(120)
    ]
    path.write_text("a,b,c,label\n" + "\n".join(lines) + "\n")
    return path


def test_a_comparison_that_names_no_method_takes_a_few_that_suit_the_data(table):
    data, said = nearfar.data(table), []
    found = comparing.chosen(data, evaluation.task_for(data), TrainSettings(), None, said.append)
    assert [one.label for one in found] == ["simclr", "dcl", "nnclr", "simclr --loss supcon"]
    assert "more fit: " in said[1]
    everything = comparing.chosen(data, evaluation.task_for(data), TrainSettings(), "all", said.append)
    assert len(everything) > entries.MOST
    others = {one.slug for one in everything} - {one.slug for one in found}
    assert all(slug in said[1] for slug in others)


def test_what_suits_is_known_fits_and_begins_with_the_method_of_the_data():
    known = set(methods.slugs())
    for begin, _, specs in entries.SUITED:
        assert begin in known
        assert 2 <= len(specs) <= entries.MOST
        assert len({entries.entry(spec).name for spec in specs}) == len(specs)
    without = [begin for begin, held, _ in entries.SUITED if not held]
    first = {cls for cls in known if methods.get(cls).suits.__func__ is not methods.registry.get("dcl").suits.__func__}
    assert set(without) >= first - {"dcl"}, "a method that data may begin with has a row for the rest"


def test_too_little_time_is_said_with_what_would_do():
    paces = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1}
    comparing.check_time(1000.0, paces, 2, 100)
    with pytest.raises(InputError) as found:
        comparing.check_time(60.0, paces, 2, 100)
    # 0.85 x 60 s / (2 x 0.4 s) = 63 steps; two methods have 127; 100 steps of four take 80 s / 0.85
    assert "60 s is too little time for 4 methods x 2 seeds: 63 steps each, and fewer than 100" in str(found.value)
    assert 'Take --methods "a,b", or' in str(found.value)
    assert "--budget 2m; --least-steps 63" in str(found.value)
    with pytest.raises(InputError, match='"a,b,c,d" --seeds 1, or --budget 3m'):
        comparing.check_time(50.0, paces, 3, 100)
    with pytest.raises(InputError, match="Take --budget 34m"):
        comparing.check_time(1.0, {"a": 1.7, "b": 1.7}, 5, 100)
    comparing.check_time(1.0, {}, 3, 100)


def test_nothing_is_written_where_the_time_is_too_little(table, tmp_path):
    with pytest.raises(InputError, match="too little time for 2 methods x 1 seed"):
        nearfar.compare(table, methods="simclr,dcl", budget="0.01s", out=tmp_path / "c", **QUICK)
    assert not list((tmp_path / "c").glob("cells")) if (tmp_path / "c").exists() else True
    done = nearfar.compare(table, methods="simclr", budget="0.01s", least_steps=20, out=tmp_path / "d", **QUICK)
    assert done.results["plan"]["steps"] == 20


def test_rounds_halve_until_two_are_left():
    assert halving.rounds_of(9) == [9, 5, 3]
    assert halving.rounds_of(3) == [3]
    assert halving.rounds_of(2) == halving.rounds_of(1) == []
    higher = SimpleNamespace(key=lambda value: -value)
    scores = {"a": 0.2, "b": 0.9, "c": 0.9, "d": 0.1, "e": 0.5}
    assert halving.better_half(scores, higher) == ["b", "c", "e"]
    assert halving.better_half({"a": 0.2, "b": 0.9, "c": 0.3}, higher) == ["b", "c"]
    assert halving.better_half({"a": 0.2}, higher) == ["a"]


def test_auto_keeps_the_better_ones_by_validation_and_goes_on_where_it_was_cut_off(table, tmp_path, monkeypatch):
    field = "simclr,dcl,nnclr,simclr --loss supcon"
    given = {"methods": field, "auto": True, "budget": "4s", "least_steps": 1, "out": tmp_path / "c"}
    trained, stops = [], [2, 5]  # within the round, and behind it
    fit = comparing.engine.fit

    def counted(slug, *args, **more):
        if stops and len(trained) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        trained.append(slug)
        return fit(slug, *args, **more)

    monkeypatch.setattr(comparing.engine, "fit", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            nearfar.compare(table, **given, **QUICK)
    monkeypatch.setattr(comparing.engine, "fit", fit)
    done = nearfar.compare(table, **given, **QUICK)
    (told,) = done.results["plan"]["rounds"]
    stored = json.loads((tmp_path / "c" / "rounds" / "1" / "round.json").read_text())
    assert told == stored
    scores = {name: nearfar_val(tmp_path / "c" / "rounds" / "1", name) for name in told["scores"]}
    assert scores == told["scores"]
    assert len(told["scores"]) == 4
    assert told["kept"] == sorted(scores, key=lambda name: -scores[name])[:2]
    assert [row["label"].partition(" (")[0] for row in done.results["rows"] if row["kind"] == "method"] == told["kept"]
    assert done.results["seconds"] >= told["seconds"] > 0


def nearfar_val(folder, label):
    """The score on validation rows as the run itself wrote it."""
    run = folder / "cells" / f"{entries.entry(label).name}-s0"
    return json.loads((run / "scores.json").read_text())["scores"]["val"]["primary"]


def test_auto_needs_validation_rows_and_time(table, tmp_path):
    lines = table.read_text().splitlines()
    numbers = [line.rpartition(",")[0] for line in lines]
    marked = [f"{line},{'test' if k else 'train'}" for k, line in enumerate(numbers[1:])]  # one row gives none away
    table.write_text("\n".join([f"{numbers[0]},split", *marked]))
    with pytest.raises(InputError, match="halves the methods by validation rows, and there are none"):
        nearfar.compare(table, auto=True, out=tmp_path / "c", split="split", **QUICK)
    table.write_text("\n".join(lines))
    with pytest.raises(InputError, match="Give --budget in place of --steps"):
        nearfar.compare(table, auto=True, steps=50, out=tmp_path / "d", **QUICK)
    with pytest.raises(InputError, match="too little time"):
        nearfar.compare(table, auto=True, budget="1s", out=tmp_path / "e", **QUICK)
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "d").exists()


def test_a_method_that_cannot_be_trained_is_left_out_of_the_rounds_and_said(table, tmp_path):
    said = []
    done = nearfar.compare(table, methods="simclr,dcl,simclr --views members", auto=True, budget="4s", least_steps=1,
                           out=tmp_path / "c", say=said.append, **QUICK)  # fmt: skip
    (told,) = done.results["plan"]["rounds"]
    assert set(told["scores"]) == {"simclr", "dcl"}
    assert any("simclr --views members left out" in line for line in said)
