"""Checks of claims: each is a sound plan, and one of each sort of data runs in its short form, with few steps and few
rows, beside what needs no training. `python benchmarks/claims --all --tiny` runs all of them so."""

import dataclasses
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import pytest

from nearfar.evaluation import tasks
from nearfar.training.engine import split_options
from nearfar.units import known_metrics
from tests.docs.pages import ROOT

FOLDER = ROOT / "benchmarks" / "claims"
NEED_NO_TRAINING = {"untrained", "raw pixels", "raw numbers", "chance", "k-means start", "TF-IDF"}


@pytest.fixture(scope="module")
def claims():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("claims_main", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


SLUGS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__main__", "experiment", "sets", "shared"))


def test_no_check_is_left_out(claims):
    from nearfar import methods

    assert claims.slugs() == SLUGS
    compared = {"pairs", "simclr", "abmil", "l1-regression", "simcse", "cross-encoder"}  # with which the others are
    compared |= {"sasrec", "cl4srec", "bgrl", "graph-barlow-twins"}
    compared |= {"mcl-pairs", "grace", "ts2vec"}  # in the checks of mcl, csgcl and autotcl
    assert set(methods.registry.built_in()) - compared <= set(SLUGS)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_check_is_a_sound_plan(slug, claims):
    """Known methods with options in their ranges, settings, tasks, metrics and data; what it compares is there."""
    module, e = claims.module(slug), claims.experiment
    if not hasattr(module, "CLAIM"):
        assert callable(module.run)
        return
    claim = module.CLAIM
    (first, *_), plan = claim.cells.values(), e.Plan(Path())
    assert claim.slug == slug
    for cell in claim.cells.values():
        assert cell.arms
        assert {cell.data, *(arm.data for arm in cell.arms.values() if arm.data)} <= set(e.sets.SETS)
        for arm in cell.arms.values():
            one = e.entry(arm.spec)
            given = {k: v for k, v in plan.settings(cell, arm, 0).items() if k != "progress"}
            split_options(one.slug, given | one.options, None, None)
            assert arm.starts is None or arm.starts in cell.arms
        for task, metric in cell.measures.values():
            name, given = tasks.parsed(task)
            tasks.checked_options(name, given)
            assert re.sub(r"^hard/", "", metric) in known_metrics() or re.fullmatch(r"\d+-shot(\+[a-z-]+)?", metric)
        assert all(set(arms) <= set(cell.arms) for arms in cell.worst.values())
    rows = {*first.arms, *first.worst, *NEED_NO_TRAINING}
    assert {claim.control, claim.method or claim.control} <= rows
    assert claim.measure in first.measures or first.look is not None
    every = {label for cell in claim.cells.values() for label in (*cell.arms, *cell.worst)} | NEED_NO_TRAINING
    assert {label for pair in claim.pairs for label in pair} <= every


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["align", "csgcl", "ins", "supremix"])
def test_a_tiny_run_of_a_check_ends_in_a_result(slug, claims, tmp_path):
    claims.check(slug, claims.experiment.Plan(tmp_path, seeds=1, tiny=True, say=lambda line: None))
    result = json.loads((tmp_path / "results" / f"{slug}.json").read_text())
    assert result["command"] == f"python benchmarks/claims {slug}"
    assert math.isfinite(result["difference"]["mean"])
    assert result["holds"] is None or isinstance(result["holds"], bool)
    rows = next(iter(result["all"].values()))
    assert NEED_NO_TRAINING & set(rows)
    assert all(math.isfinite(x) for seeds in rows.values() for scores in seeds for x in scores.values())


def test_a_finished_run_is_read_and_not_trained_again(claims, tmp_path, monkeypatch):
    e = claims.experiment
    arms = {"a": e.Arm("supremix --views noise"), "b": e.Arm("supremix --views noise --mix none")}
    claim = e.Claim("x", "x", {"diabetes": e.Cell("diabetes", arms, {}, {"R2": ("regression", "r2")})}, "b", "R2")
    plan = e.Plan(tmp_path, seeds=1, tiny=True, say=lambda line: None)
    before = e.run(claim, plan)
    assert {"a", "b", "untrained"} <= set(before["all"]["diabetes"])
    monkeypatch.setattr(e, "fit", None)
    assert e.run(claim, plan)["all"] == before["all"]
    monkeypatch.undo()
    trained, fit = [], e.fit
    monkeypatch.setattr(e, "fit", lambda slug, *given, **how: trained.append(how["lr"]) or fit(slug, *given, **how))
    changed = dataclasses.replace(claim.cells["diabetes"], settings={"lr": 0.01})
    e.run(dataclasses.replace(claim, cells={"diabetes": changed}), plan)
    assert trained == [0.01, 0.01]  # another plan than that of the runs that are kept


def test_what_needs_no_training_is_said_first_where_no_arm_beats_it(claims):
    e = claims.experiment
    cell = e.Cell("digits", {"a": e.Arm("dcl"), "b": e.Arm("simclr")}, {}, {"kNN": ("labels", "knn")})
    claim = e.Claim("x", "x", {"digits": cell}, control="b", measure="kNN")
    found = {"digits": {"a": [{"kNN": 0.8}], "b": [{"kNN": 0.7}], "untrained": [{"kNN": 0.75}]}}
    assert e.first_of_all(claim, found) == ""
    found["digits"]["raw pixels"] = [{"kNN": 0.9}]
    assert e.first_of_all(claim, found) == "On digits no arm reaches raw pixels (kNN)."
    less = e.Claim("x", "x", {"digits": cell}, control="b", measure="kNN", higher=False)
    assert e.first_of_all(less, found) == ""
    found["digits"]["HOG"] = [{"kNN": 0.1}]
    assert e.first_of_all(less, found) == "On digits no arm reaches HOG (kNN)."


def test_each_seed_divides_the_rows_anew_and_permuted_targets_keep_the_division(claims, tmp_path):
    e, sets = claims.experiment, claims.experiment.sets
    cell = e.Cell("diabetes", {"a": e.Arm("supremix", data="diabetes, permuted")}, {}, {}, divided=True)
    plan = e.Plan(tmp_path)
    first, again, other = (e.opened_for(cell, plan, seed) for seed in (0, 0, 1))
    plain, moved = first["diabetes"], first["diabetes, permuted"]
    assert plain.split_hash == again["diabetes"].split_hash == moved.split_hash
    assert plain.split_hash != other["diabetes"].split_hash
    assert sorted(plain.target_values) == sorted(moved.target_values)
    assert (plain.target_values != moved.target_values).mean() > 0.9
    held = [sets.opened(name, tmp_path) for name in ("digits, turned", "digits, turned, permuted")]
    same = held[0].target_values == held[1].target_values
    assert same[held[0].splits["test"]].all()
    assert same[held[0].splits["train"]].mean() < 0.05


def test_notes_write_each_number_in_its_unit(claims):
    rows = {"angle": {"a": [{"MAE": 12.345, "R2": 0.5, "seen": 0.25}, {"MAE": 12.345, "R2": 0.5, "seen": 0.25}]}}
    told = claims.experiment.arms_told({"all": rows, "metrics": {"MAE": "mae", "R2": "r2"}})
    assert told == "angle (MAE, R2, seen): a 12.3 / 0.500 / 25.0."


def test_differences_are_paired_over_seeds(claims):
    rows = {"a": [{"m": 0.5}, {"m": 0.9}, {"m": 0.7}], "b": [{"m": 0.4}, {"m": 0.8}, {"m": 0.6}]}
    found = claims.experiment.difference(rows, "a", "b", "m")
    assert found["mean"] == pytest.approx(0.1)
    assert found["holds"] is True
    assert claims.experiment.difference(rows, "a", "b", "m", higher=False)["holds"] is not True


def test_equal_arms_of_two_cells_are_trained_once(claims, tmp_path):
    e, plan = claims.experiment, claims.experiment.Plan(tmp_path)
    align = claims.module("align").CLAIM
    whole = e.run_folder(align, plan, "names", "many, clean", 1)
    assert e.run_folder(align, plan, "names, smoothing", "0.1", 1) == whole
    assert e.run_folder(align, plan, "names, candidates", "128", 1) == whole
    others = [("names", "many, 30 % wrong"), ("names", "300 clean"), ("names, smoothing", "0"),
              ("names, candidates", "64"), ("names, candidates", "32")]  # fmt: skip
    assert len({e.run_folder(align, plan, *one, 1) for one in others} | {whole}) == 6
    for slug in SLUGS:
        if (claim := getattr(claims.module(slug), "CLAIM", None)) is not None:
            for name, cell in claim.cells.items():
                folders = [e.run_folder(claim, plan, name, label, 0) for label in cell.arms]
                assert len(set(folders)) == len(folders), "arms of a cell that are trained alike"


def test_errors_are_better_where_they_are_lower(claims):
    e = claims.experiment
    measures = {"R2": ("regression", "r2"), "MAE": ("regression", "mae")}
    claim = e.Claim("x", "x", {"c": e.Cell("diabetes", {"a": e.Arm("supremix"), "b": e.Arm("l1-regression")}, {},
                                           measures)}, control="b", measure="R2")  # fmt: skip
    noise = [0.001, 0.0, -0.001]
    found = {
        "c": {"a": [{"R2": 0.5 + x, "MAE": 3 + x} for x in noise], "b": [{"R2": 0.4 - x, "MAE": 4 - x} for x in noise]}
    }
    told = e.further(claim, found)
    assert told["c: a - b, R2"]["holds"] is True
    assert told["c: a - b, MAE"]["holds"] is True
    assert told["c: a - b, MAE"]["mean"] == pytest.approx(-1)


def test_an_untrained_encoder_is_measured_where_one_tower_is_enough(claims, tmp_path):
    e = claims.experiment
    cell = claims.module("mcl").CLAIM.cells["two digits, captions"]
    data = e.sets.opened(cell.data, tmp_path, tiny=True)
    assert set(e.untrained(cell, data, tmp_path / "kept.json", 0)) == set(cell.measures) - {"hit@1"}
    pairs = e.Cell(cell.data, cell.arms, cell.settings, {"hit@1": cell.measures["hit@1"]})
    assert e.untrained(pairs, data, tmp_path / "other.json", 0) == {}
