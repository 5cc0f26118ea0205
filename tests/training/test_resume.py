"""n + m steps equal n steps, save, load, m steps: weights, memories and curve, to the bit."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from nearfar import processes
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.training import callbacks
from nearfar.training.engine import fit
from tests import stopping
from tests.small import encoder_of

STEPS = 8
CASES = {
    "simclr": {},
    "dcl": {"negatives": "queue", "momentum": "auto"},
    "swav": {"prototypes": 30, "queue": 32, "queue_start": 0.3},
    "nnclr": {"queue": 48},
    "pairs": {"negatives": {"name": "queue", "size": 40}},
    "align": {},
    "contriever": {"stream": True, "length": 16},
    "pixpro": {"pretext": "contrast", "projector": 16, "dim": 8},
    "beclr": {"clusters": 3, "scale": 8, "neighbours": 2, "memory_start": 0.3},
    "cacr queue": {"form": "queue", "positives": 2, "negatives": {"name": "queue", "size": 40}},
    "cacr momentum": {"form": "momentum", "positives": 1},
    "contrastive-behaviour memory": {"negatives": {"name": "queue", "size": 40}},
    "cwcl": {},
    "negclip": {"images": 2},
    "csp": {"untrained": True},
    "coop": {"untrained": True},
    "clip-rocket": {"hidden": 32},
    "clip-rocket byol": {"hidden": 32, "extra": "byol", "extra_hidden": 32},
    "supremix": {},
    "groco": {"draws": 2},
    "hydra": {"gate": "stochastic", "pairs": "distinct", "gamma": 0.1},
    "sepclr": {"background": "twemoji"},
    "susana": {"batch_size": "auto", "ways": 4, "shots": 3},
    "ins": {"queue": 32, "bag_start": 0.3, "bag_rows": 4},
    "abmil": {},
    "l1-regression": {},
    "cot": {"dim": 16, "augment_from": 0.4},
    "crest": {"batch_size": "auto", "dim": 16, "patterns": 6, "anneal_epochs": 2},
    "simcse": {},
    "whitenedcse": {},
    "debcse": {"teacher_share": 0.25, "drawn": 2},
    "dse": {"hidden": 16},
    "cross-encoder": {},
    "cvib": {"hidden": 16},
    "r-drop": {},
    "moe-embeddings": {"routing": "router"},
    "ccp": {"bank": 20, "text_encoder": "tiny", "vocabulary": 200, "text_length": 24},
    "cocosoda": {"queue": 32},
    "multicsr": {"frozen_share": 0.3},
    "space2": {},
    "grace": {"views": {"name": "drop", "edges": 0.3}},
    "bgrl": {},
    "graph-barlow-twins": {},
    "pamc": {"clusters": 3, "batch_size": "auto"},
    "gaugllm": {"text_batch": 8, "feature_drop": 0.2},
    "meow": {"refresh": 3, "batch_size": "auto"},
    "meow learned": {"weighting": "learned", "batch_size": "auto"},
    "csgcl": {"start": 1, "gamma": 2.0},
    "sasrec": {},
    "cl4srec": {},
    "mclrec": {},
    "mclrec joint": {"joint": True},
    "ts2vec": {},
    "autotcl": {"ratio_step": 2, "hard": True},
    "simclr siglip": {"loss": "siglip"},
    "simclr mixing": {"negatives": {"name": "mixing", "size": 48, "start": 0.3}},
    "contriever mixing": {"negatives": {"name": "mixing", "size": 48, "start": 0.3}},
    "simclr cross-batch": {"negatives": {"name": "cross-batch", "size": 48, "start": 0.3}, "momentum": "auto"},
    "pairs mined": {"negatives": {"name": "mined", "count": 4, "start": 0.2, "refresh": 3}},
    "simclr cluster": {"negatives": {"name": "cluster", "clusters": 3, "start": 0.2, "refresh": 3}},
    "pairs fnc": {"negatives": {"name": "fnc", "strategy": "attract", "threshold": 0.0, "start": 0.2}},
}


def run(method, data, out, **more):
    plan = {"steps": STEPS, "batch_size": 16, "val_every": 4, "save_every": 2, "progress": False}
    return fit(method, data, out=out, **plan | encoder_of(method) | more)


class Stop(RuntimeError):
    pass


@pytest.mark.parametrize("method", CASES)
def test_resumed_equals_uninterrupted(method, data_of, tmp_path, monkeypatch):
    options, method = CASES[method], method.split()[0]
    data = data_of(method)
    whole = run(method, data, tmp_path / "whole", **options)
    save = callbacks.Checkpoint.on_train_batch_end

    def stop_at_five(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == 5:  # one step after the checkpoint: that step must be done again
            raise Stop

    monkeypatch.setattr(callbacks.Checkpoint, "on_train_batch_end", stop_at_five)
    with pytest.raises(Stop):
        run(method, data, tmp_path / "parts", **options)
    monkeypatch.undo()
    resumed = run(method, data, tmp_path / "parts", resume=True, **options)
    a, b = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    ends = [
        torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for n in ("whole", "parts")
    ]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])  # queues, pointers, teachers, prototypes
    curves = [
        [json.loads(line) for line in (tmp_path / n / "curve.jsonl").read_text().splitlines()]
        for n in ("whole", "parts")
    ]
    assert [(c["step"], c["loss"]) for c in curves[0]] == [(c["step"], c["loss"]) for c in curves[1]]
    assert whole.scores["test"]["primary"] == resumed.scores["test"]["primary"]


def test_a_killed_process_is_resumed(tmp_path):
    options = ["--limit", "400", "--batch-size", "16", "--steps", "60", "--save-every", "2", "--val-every", "0"]
    words = ["fit", "simclr", "emoji", *options, "--image-size", "16", "--out"]
    folder = tmp_path / "run"
    run = stopping.Forked("import sys\nfrom nearfar.cli import main\nsys.exit(main(argv))", tmp_path / "log", *words,
                          folder)  # fmt: skip
    checkpoint = folder / "checkpoints" / "last.ckpt"
    while run.process.is_alive() and not checkpoint.exists():
        time.sleep(0.02)
    run.process.kill()
    run.wait()
    assert torch.load(checkpoint, weights_only=True)["global_step"] < 60
    assert not (folder / "scores.json").exists()
    assert main(["fit", "--resume", "--out", str(folder)]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    a, b = (load_file(f / "model" / "model.safetensors") for f in (folder, tmp_path / "whole"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_is_resumed_only_as_what_it_was(emoji_few, tmp_path):
    run("simclr", emoji_few, tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run"):
        run("simclr", emoji_few, tmp_path / "run")
    with pytest.raises(InputError, match="is a run of 'simclr', not of 'dcl'"):
        run("dcl", emoji_few, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match=r"temperature = 0\.1, not 0\.3"):
        run("simclr", emoji_few, tmp_path / "run", resume=True, temperature=0.3)
    before = (tmp_path / "run" / "scores.json").read_text()
    again = run("simclr", emoji_few, tmp_path / "run", resume=True)
    assert json.loads(before)["scores"]["test"]["primary"] == again.scores["test"]["primary"]


def test_other_threads_than_before_are_told(tmp_path, monkeypatch, capsys):
    threads, save = torch.get_num_threads(), callbacks.Checkpoint.on_train_batch_end
    words = ["fit", "simclr", "emoji", "--limit", "400", "--batch-size", "16", "--image-size", "16", "--steps", "4",
             "--save-every", "2", "--val-every", "0"]  # fmt: skip

    def end(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == 2:
            raise KeyboardInterrupt

    for change in (0, 1):
        folder = str(tmp_path / f"run{change}")
        with monkeypatch.context() as patched:
            patched.setattr(callbacks.Checkpoint, "on_train_batch_end", end)
            assert main([*words, "--out", folder]) == 130
        capsys.readouterr()
        with processes.same_threads():
            torch.set_num_threads(threads + change)
            for wanted in (change == 1, False):  # the second time nothing is left to train
                assert main(["fit", "--resume", "--out", folder]) == 0
                told = f"With OMP_NUM_THREADS={threads} they do not." in capsys.readouterr().out
                assert told == wanted


def test_nothing_is_left_of_a_run_that_never_began(emoji_few, tmp_path):
    with pytest.raises(InputError, match="larger than the"):
        fit("simclr", emoji_few, out=tmp_path / "run", batch_size=100_000, progress=False)
    assert not (tmp_path / "run" / "config.json").exists()
