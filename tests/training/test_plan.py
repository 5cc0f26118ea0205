"""The plan of a comparison: fixed once, the same for every cell, also for one begun by an earlier version."""

import json

import pytest

from nearfar import evaluation
from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.training import building, comparing, engine
from nearfar.training.settings import TrainSettings


def plan(folder, data, **settings):
    entries = [comparing.entry("simclr")]
    return comparing.make_plan(folder, data, TrainSettings(**settings), entries, 2, None, lambda text: None)


def test_a_plan_is_kept_and_guards_its_settings(emoji_few, tmp_path):
    first = plan(tmp_path, emoji_few, steps=7, batch_size=8)
    assert plan(tmp_path, emoji_few, steps=7, batch_size=8)["steps"] == first["steps"] == 7
    with pytest.raises(InputError, match="other settings"):
        plan(tmp_path, emoji_few, steps=7, batch_size=8, lr=0.5)
    with pytest.raises(InputError, match="7 steps, not 9"):
        plan(tmp_path, emoji_few, steps=9, batch_size=8)


def test_a_plan_from_before_an_option_existed_goes_on_with_its_default(emoji_few, tmp_path):
    plan(tmp_path, emoji_few, steps=7, batch_size=8)
    path = tmp_path / "plan.json"
    stored = json.loads(path.read_text())
    del stored["settings"]["accumulate"]
    path.write_text(json.dumps(stored))
    assert plan(tmp_path, emoji_few, steps=7, batch_size=8)["steps"] == 7
    with pytest.raises(InputError, match="other settings"):
        plan(tmp_path, emoji_few, steps=7, batch_size=8, accumulate=2)


def test_compare_trains_on_one_device(emoji_few, tmp_path):
    with pytest.raises(InputError, match="one device"):
        comparing.compare(emoji_few, methods="simclr", devices=2, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_seconds_of_a_comparison_count_cells_that_an_earlier_call_finished(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,label\n" + "".join(f"{i * i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(60)))
    options = {"methods": "simclr", "seeds": 1, "steps": 8, "batch_size": 16, "val_every": 0, "report": False}
    for _ in range(2):
        found = comparing.compare(path, out=tmp_path / "c", progress=False, **options).results
        assert found["seconds"] >= sum(c.get("seconds") or 0 for row in found["rows"] for c in row["seeds"]) > 0


def test_a_shorter_text_length_reaches_the_encoder(tmp_path):
    path = tmp_path / "pairs.csv"
    lines = [f"question number {i} " + "with many more words " * 20 + f",answer {i}" for i in range(40)]
    path.write_text("question,answer\n" + "\n".join(lines) + "\n")
    data = open_data(path, roles={"text": "question", "text_b": "answer"})
    made = building.prepare("pairs", data, TrainSettings(batch_size=8, steps=2, text_length=12), {})
    encoder = made.method.towers()["text"].encoder
    assert encoder.special.length == 12
    batch = made.loader.at(0)
    assert made.method.make_views(batch)["text"][0].ids.shape[1] <= 12
    with pytest.raises(InputError, match="text_length"):
        TrainSettings(text_length=2)


def test_a_model_of_one_stage_is_illustrated_on_data_with_several_labels(emoji_few, tmp_path):
    done = comparing.compare(
        emoji_few, methods="simclr", seeds=1, steps=2, batch_size=8, val_every=0, out=tmp_path / "c", progress=False
    )
    names = [d["name"] for d in done.results["diagnostics"]["simclr"]]
    assert "uniformity" in names
    assert not any("stage" in name for name in names)
    assert (tmp_path / "c" / "report.html").exists()


def test_the_progress_line_tells_stage_loss_and_the_last_score():
    from nearfar.training.callbacks import Progress

    shown = Progress("mcl on photos")
    shown.log({"step": 1, "loss": 2.0, "stage": 0.0, "val_primary": 0.123})
    assert shown.note == "stage 0  loss 2.000  val 12.3%"
    shown.log({"step": 2, "loss": 1.5, "stage": 1.0})
    assert shown.note == "stage 1  loss 1.500  val 12.3%"
    plain = Progress("simclr on photos")
    plain.log({"step": 1, "loss": 2.0})
    assert plain.note == "loss 2.000"


def test_an_automatic_encoder_has_layers_where_a_method_looks_into_them(tmp_path):
    path = tmp_path / "pairs.csv"
    lines = [f"question number {i},answer {i * 7 % 60},{i % 2},{i % 2 - 0.5}" for i in range(60)]
    path.write_text("question,answer,label,teacher\n" + "\n".join(lines) + "\n")
    data = open_data(path, roles={"text": "question", "text_b": "answer", "pair_label": "label"})
    options = {"steps": 2, "batch_size": 8, "val_every": 0, "progress": False, "vocabulary": 60}
    for slug, name in (("pairs", "small"), ("dse", "tiny")):
        run = engine.fit(slug, data, out=tmp_path / slug, **options)
        assert run.plan["resolved"]["text_encoder"] == name
        assert json.loads((tmp_path / slug / "config.json").read_text())["settings"]["text_encoder"] == name
    said = []
    task = evaluation.task_for(data)
    for given, left_out in (({}, True), ({"text_encoder": "tiny"}, False), ({"text_encoder": "small"}, False)):
        said.clear()
        chosen = comparing.chosen(data, task, TrainSettings(**given), "all", said.append)
        assert ("dse" not in [one.slug for one in chosen]) is left_out
        assert any(line.startswith("dse: left out (looks into layers") for line in said) is left_out
    named = comparing.compare(data, out=tmp_path / "named", seeds=1, report=False, methods="pairs,dse", **options)
    assert named.results["plan"]["encoder"] == "tiny"
    assert all(c.get("error") is None for row in named.results["rows"] for c in row["seeds"])


def test_what_a_model_answers_is_measured_in_evaluation_mode_and_then_is_as_it_was(emoji_few, tmp_path, monkeypatch):
    """The answer's dropout would make the scores of training others than those of the finished model."""
    from types import SimpleNamespace

    import torch

    answer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2).eval())
    seen = []
    task = SimpleNamespace(evaluate=lambda embed, split: seen.append([one.training for one in answer.modules()]))
    monkeypatch.setattr(engine, "embedder", lambda setup, data: SimpleNamespace(inference=answer))
    engine.measured(task, SimpleNamespace(settings=TrainSettings()), emoji_few, "val")
    assert seen == [[False, False, False]]
    assert [one.training for one in answer.modules()] == [True, True, False]
