"""MEOW from the command line: typed graphs, both weightings, what is said of wrong ones."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import nearfar
from nearfar import cli
from nearfar.errors import InputError
from nearfar.modalities.node import graph_of
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests.conftest import write_network, write_typed_network

PLAN: dict[str, Any] = {"steps": 4, "val_every": 0, "progress": False, "graph_width": 16}


def prepared(data, slug="meow", options=None, **settings) -> Any:
    chosen: dict[str, Any] = {"steps": 4, "graph_width": 16} | settings
    return building.prepare(slug, data, TrainSettings(**chosen), options or {})


def test_from_the_command_line(tmp_path, capsys):
    folder, out = write_typed_network(tmp_path / "g"), tmp_path / "run"
    words = ["fit", "meow", str(folder), "--weighting", "learned", "--steps", "4", "--val-every", "0",
             "--graph-width", "16", "--graph-paths", "paper-author-paper", "--graph-nearest", "20"]  # fmt: skip
    assert cli.main([*words, "--out", str(out)]) == 0
    weights = [json.loads(line)["mean_weight"] for line in (out / "curve.jsonl").read_text().splitlines()]
    assert all(0 < w < 1 for w in weights)
    assert cli.main(["embed", str(out / "model"), str(folder), "--out", str(tmp_path / "index")]) == 0
    capsys.readouterr()
    assert cli.main(["search", str(tmp_path / "index"), "key:p3", "--json"]) == 0
    assert "p3" in capsys.readouterr().out
    assert cli.main([*words[:3], "--prototypes", "2", *words[3:], "--out", str(tmp_path / "x")]) == 2
    assert "--weighting" in capsys.readouterr().err


def test_a_kept_model_gives_what_training_ended_with(typed_network_few, tmp_path):
    fit("meow", typed_network_few, out=tmp_path / "run", clusters="3,6", **PLAN)
    model = nearfar.load(tmp_path / "run" / "model")
    z = ModelEmbedder(model, typed_network_few).raw("node", np.arange(64))
    assert z.shape == (64, 16)
    assert np.isfinite(z).all()
    encoder: Any = model.roles["node"].encoder
    assert encoder.paths == ["paper-author-paper", "paper-paper"]
    assert encoder.target == "paper"
    assert int(encoder.seen) == 4
    with torch.no_grad():
        whole = encoder.eval().all_nodes(graph_of(typed_network_few, encoder.counts))
    assert np.allclose(z, whole.numpy(), atol=1e-5)


def test_the_target_is_the_type_with_labels_or_named(typed_network_few, tmp_path):
    assert prepared(typed_network_few).method.tower.encoder.target == "paper"
    named = prepared(typed_network_few, graph_target="author").method.tower.encoder
    assert (named.target, named.paths) == ("author", ["author-paper-author"])
    with pytest.raises(InputError, match="no such type of nodes"):
        prepared(typed_network_few, graph_target="autor")
    folder = write_typed_network(tmp_path / "g")
    rows = [",".join(x for k, x in enumerate(line.split(",")) if k != 2)
            for line in (folder / "nodes.csv").read_text().splitlines()]  # fmt: skip
    (folder / "nodes.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match="--graph-target author"):
        prepared(nearfar.data(folder))


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"graph_encoder": "gcn"}, "--graph-encoder paths"),
        ({}, {"graph_paths": "paper-autor-paper"}, "cannot be read"),
        ({}, {"graph_nearest": "1,2,3"}, "3 numbers for 2 paths"),
        ({}, {"graph_neighbours": "4,2"}, "--graph-neighbours all"),
        ({"clusters": "3,49"}, {}, "has 48 nodes"),
        ({"clusters": "0"}, {}, "list of numbers"),
        ({"edge_mask": "0.1,0.2,0.3"}, {}, "for 2 paths"),
        ({"edge_mask": "1.5"}, {}, "0..1"),
        ({"edge_mask": "much"}, {}, "list of numbers"),
    ],
)
def test_wrong_settings(typed_network_few, options, settings, message):
    with pytest.raises(InputError, match=message):
        prepared(typed_network_few, options=options, **settings)


def test_wrong_words(tmp_path, capsys):
    folder = write_network(tmp_path / "one")
    assert cli.main(["fit", "meow", str(folder), "--out", str(tmp_path / "a")]) == 2
    assert "node_type" in capsys.readouterr().err
    typed = write_typed_network(tmp_path / "g")
    words = ["fit", "grace", str(typed), "--steps", "2", "--val-every", "0", "--out", str(tmp_path / "b")]
    assert cli.main([*words, "--graph-encoder", "gcn", "--graph-paths", "paper-paper"]) == 2
    assert "has no effect" in capsys.readouterr().err
    assert cli.main([*words, "--graph-nearest", "few"]) == 2
    assert "a number for each path" in capsys.readouterr().err
    assert cli.main([*words, "--graph-encoder", "paths", "--graph-width", "16"]) == 0


def test_masks_come_from_the_seed_and_weights_from_the_clusters(typed_network_few):
    one, two, other = (prepared(typed_network_few, seed=s).method for s in (1, 1, 2))
    assert torch.equal(one.features, two.features)
    assert not torch.equal(one.features, other.features)
    assert torch.equal(one.masked[0].indices(), two.masked[0].indices())
    made = prepared(typed_network_few, options={"clusters": "3", "refresh": 2})
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    made.method.loss(made.method.encode(batch), batch)
    before = made.method.assigned.clone()
    assert len(before.unique()) == 3
    assert torch.allclose(made.method.centres.norm(dim=1), torch.ones(3))
    later = made.loader.at(1)
    later.views = batch.views
    made.method.loss({k: v.flip(0) for k, v in made.method.encode(batch).items()}, later)
    assert torch.equal(made.method.assigned, before)
    paper = prepared(typed_network_few, options={"weighting": "learned"}, preset="paper").method
    assert (paper.tau, paper.optimisation.lr, paper.optimisation.weight_decay) == (1.0, 5e-5, 1e-5)
