"""Graphs of users: files, wrong files, and measures that a count by hand repeats."""

import json

import networkx
import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

import nearfar
from nearfar import cli, modalities
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.graphs import Nodes, held_out
from nearfar.modalities.node import graph_of
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests.conftest import write_network

PLAN = {"steps": 4, "val_every": 0, "progress": False}


def pairs(data):
    keys = list(data.keys)
    return {frozenset((keys[a], keys[b])) for a, b in graph_of(data).edges.T.tolist()}


def lines(path):
    return path.read_text().splitlines()


def test_a_folder_of_nodes_and_edges(tmp_path):
    folder = write_network(tmp_path / "g")
    data = nearfar.data(folder)
    assert data.roles["node"] == "id"
    assert data.roles["label"] == ["label"]
    assert data.roles["features"] == list("abcd")
    assert pairs(data) == {frozenset(line.split(",")) for line in lines(folder / "edges.csv")[1:]}
    assert any("1 nodes have no edge" in note for note in data.notes)
    x = graph_of(data).features[0]
    assert x.shape == (60, 4)
    assert float(x[5, 2]) == pytest.approx(float(lines(folder / "nodes.csv")[6].split(",")[4]), abs=1e-6)


def test_texts_become_counts_of_words_that_sum_to_one(tmp_path):
    data = nearfar.data(write_network(tmp_path / "g", text=True))
    x = graph_of(data).features[0]
    assert torch.allclose(x.sum(1), torch.ones(60))
    same = [k for k in range(60) if k % 105 == 0 or (k % 3, k % 7, k % 5) == (0, 0, 0)]
    assert all(torch.equal(x[0], x[k]) for k in same)
    assert not torch.equal(x[0], x[1])


def test_edges_alone_are_a_graph(tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "edges.csv").write_text("from,to\n1,2\n2,3\n3,1\n3,4\n")
    data = nearfar.data(tmp_path / "g")
    assert len(data) == 4
    assert pairs(data) == {frozenset(p) for p in ("12", "23", "31", "34")}
    assert any("nothing is known of the nodes" in note for note in data.notes)
    assert graph_of(data).features[0][:, 1].tolist() == pytest.approx(np.log1p([2, 2, 3, 1]).tolist())


def test_the_number_of_neighbours_is_that_of_the_graph_of_training(tmp_path):
    """Where nothing else is known of nodes: of edges that are held out, or lead to nodes of no training, it tells
    nothing; doubles, both directions and loops count once or not at all."""
    rng = np.random.default_rng(0)
    drawn = {(int(a), int(b)) for a, b in rng.integers(40, size=(150, 2)) if a < b} | {(i, i + 1) for i in range(39)}
    given = [*drawn, *list(drawn)[:20], *((b, a) for a, b in list(drawn)[:9]), (3, 3)]
    (tmp_path / "edges.csv").write_text("source,target\n" + "\n".join(f"v{a},v{b}" for a, b in given))
    data = nearfar.data(tmp_path)
    number = {key: k for k, key in enumerate(data.keys)}
    every = {frozenset((number[f"v{a}"], number[f"v{b}"])) for a, b in drawn}

    def degrees(pairs):
        return np.log1p([sum(k in pair for pair in pairs) for k in range(len(data))])

    assert graph_of(data).features[0][:, 1].numpy() == pytest.approx(degrees(every))
    hidden = {frozenset(p) for p in np.concatenate(held_out(graph_of(data), 0.2, data.seed), 1).T.tolist()}
    for options, nodes in (({}, range(40)), ({"graph_training": "train"}, data.splits["train"].tolist())):
        made = building.prepare("grace", data, TrainSettings(steps=2, graph_held_out=0.2, **options), {})
        assert {"20 edges repeat another of their relation and direction and count once with it",
                "1 edges from a node to itself are left out"} <= set(data.notes)  # fmt: skip
        seen = next(iter(made.loader)).inputs["node"].graph
        left = degrees({pair for pair in every - hidden if pair <= set(nodes)})[list(nodes)]
        assert seen.features[0][:, 1].numpy() == pytest.approx(left)
        assert made.method.tower.encoder.mean[1].item() == pytest.approx(left.mean())


def test_types_without_features_are_told_from_those_with_two(tmp_path):
    nodes = "id,type,x,y\n1,p,0.5,1\n2,p,1.5,2\n3,p,2.5,0\n4,q,,\n5,q,,\n"
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "edges.csv").write_text("source,target,type\n1,4,writes\n4,1,written\n2,4,writes\n3,5,writes\n")
    data = nearfar.data(tmp_path)
    assert [note for note in data.notes if "no features" in note] == [
        "nodes of the type 'q' have no features: how many neighbours they have is theirs"
    ]
    assert graph_of(data).features[1].numpy() == pytest.approx(np.stack([[1, 1], np.log1p([2, 1])], 1))
    assert modalities.get("node").samples(data, "node", np.array([3])) == ["4 (2 neighbours)"]


@pytest.mark.parametrize("ending", ["graphml", "gexf", "json"])
def test_files_of_networkx(tmp_path, ending):
    graph = networkx.karate_club_graph()
    path = tmp_path / f"karate.{ending}"
    if ending == "json":
        path.write_text(json.dumps(networkx.node_link_data(graph)))
    else:
        getattr(networkx, f"write_{ending}")(graph, path)
    data = nearfar.data(path, roles={"label": "club"})
    assert len(data) == 34
    assert pairs(data) == {frozenset((str(a), str(b))) for a, b in graph.edges}
    assert set(data.label_names["club"]) == {"Mr. Hi", "Officer"}


def test_what_is_to_be_told_is_no_feature(tmp_path):
    """Of two roles of a column, the one that the user named stays; naming both is refused."""
    rows = [f"v{i},{'ab'[i % 2]},{'uv'[i % 3 % 2]},{'pq'[i % 2]},{i % 3},{i / 2}" for i in range(12)]
    (tmp_path / "nodes.csv").write_text("\n".join(["id,label,club,type,rank,x", *rows]))
    (tmp_path / "edges.csv").write_text("source,target\n" + "\n".join(f"v{i},v{i + 1}" for i in range(11)))
    assert nearfar.data(tmp_path).roles["features"] == ["club", "rank", "x"]
    club = nearfar.data(tmp_path, roles={"label": "club", "target": "rank"})
    assert club.roles["features"] == ["x"]
    assert [len(x[0]) for x in graph_of(club).features] == [1, 1]
    assert "node_type" not in nearfar.data(tmp_path, roles={"label": "type"}).roles
    assert "label" not in nearfar.data(tmp_path, roles={"features": ["label", "x"]}).roles
    with pytest.raises(InputError, match="'club' is both 'label' and 'features'"):
        nearfar.data(tmp_path, roles={"label": "club", "features": ["club", "x"]})


def test_columns_named_as_roles_are_read_as_they_stand(tmp_path):
    rows = [f"v{i},{10 * i},{i / 2},{7 - i}" for i in range(5)]
    (tmp_path / "nodes.csv").write_text("\n".join(["id,node,edges,features", *rows]))
    (tmp_path / "edges.csv").write_text("source,target\n" + "\n".join(f"v{i},v{i + 1}" for i in range(4)))
    data = nearfar.data(tmp_path)
    assert graph_of(data).features[0].tolist() == [[10 * i, i / 2, 7 - i] for i in range(5)]
    assert pairs(data) == {frozenset((f"v{i}", f"v{i + 1}")) for i in range(4)}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("inf", r"nodes\.csv, line 4: column 'x': 'inf' is not a finite number"),
        ('"1,5"', "'1,5' is not a finite number .it has a comma"),
        ("high", "'high' is not a finite number"),
    ],
)
def test_one_word_does_not_make_numbers_words(tmp_path, cell, message):
    rows = [f"v{i},{cell if i == 2 else i / 2}" for i in range(9)]
    (tmp_path / "nodes.csv").write_text("\n".join(["id,x", *rows]))
    (tmp_path / "edges.csv").write_text("source,target\n" + "\n".join(f"v{i},v{i + 1}" for i in range(8)))
    with pytest.raises(InputError, match=message):
        nearfar.data(tmp_path)
    data = nearfar.data(tmp_path, unreadable="skip")
    assert graph_of(data).features[0].shape == (8, 1)


def test_a_name_of_each_node_is_no_class(tmp_path):
    """GEXF has a label of each node, which is shown, and mostly its id; other files have names there."""
    graph = networkx.karate_club_graph()
    networkx.write_gexf(graph, tmp_path / "k.gexf")
    assert "label" not in nearfar.data(tmp_path / "k.gexf").table.column_names
    networkx.set_node_attributes(graph, {k: f"member {k}" for k in graph}, "label")
    networkx.set_node_attributes(graph, {k: f"part {k % 2}" for k in graph}, "class")
    networkx.write_graphml(graph, tmp_path / "k.graphml")
    data = nearfar.data(tmp_path / "k.graphml")
    assert data.roles["label"] == ["class"]
    assert data.roles["features"] == ["club"]
    assert "'label' has another value for each node: it is neither a class nor a feature" in data.notes
    assert nearfar.data(tmp_path / "k.graphml", roles={"label": "label"}).roles["label"] == ["label"]


def test_a_json_table_stays_a_table(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"text": f"some words {i}"} for i in range(6)]))
    assert nearfar.data(path).roles["text"] == "text"


def test_what_pytorch_geometric_saves(tmp_path):
    geometric = pytest.importorskip("torch_geometric.data")
    x, y = torch.rand(8, 3), torch.arange(8) % 2
    masks = torch.zeros(8, 2, dtype=torch.bool)
    masks[0, 0] = masks[1, 0] = masks[2, 1] = True
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    given = geometric.Data(x=x, y=y, edge_index=edges, train_mask=masks, val_mask=masks.roll(2, 0),
                           test_mask=masks.roll(4, 0))  # fmt: skip
    torch.save(given, tmp_path / "one.pt")
    data = nearfar.data(tmp_path / "one.pt")
    assert torch.allclose(graph_of(data).features[0], x)
    assert data.splits["train"].tolist() == [0, 1]
    assert data.splits["val"].tolist() == [2, 3]
    assert nearfar.data(tmp_path / "one.pt", split="split_1").splits["train"].tolist() == [2]
    assert pairs(data) == {frozenset(p) for p in ("01", "12", "23")}
    hetero = geometric.HeteroData()
    hetero["paper"].x, hetero["author"].num_nodes = torch.rand(3, 2), 2
    hetero["author", "writes", "paper"].edge_index = torch.tensor([[0, 1], [2, 0]])
    hetero["paper", "cites", "paper"].edge_index = torch.tensor([[0], [1]])
    torch.save(hetero, tmp_path / "two.pt")
    data = nearfar.data(tmp_path / "two.pt")
    assert data.roles["edges"] == ["writes", "cites"]
    assert set(data.values("node_type")) == {"paper", "author"}
    assert frozenset(("author:0", "paper:2")) in pairs(data)
    assert [x.shape for x in graph_of(data).features] == [(2, 2), (3, 2)]


def test_what_a_saved_graph_knows_of_edges_and_classes_is_no_feature(tmp_path):
    geometric = pytest.importorskip("torch_geometric.data")
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    x, y = torch.rand(4, 3), torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]])
    torch.save(geometric.Data(x=x, y=y, edge_index=edges, edge_attr=torch.rand(4, 1)), tmp_path / "a.pt")
    data = nearfar.data(tmp_path / "a.pt")
    assert torch.allclose(graph_of(data).features[0], x)
    assert "label" not in data.roles
    assert "a.pt: edge_attr of the edges is not used" in data.notes
    assert nearfar.data(tmp_path / "a.pt", roles={"label": "label_1"}).labels["label_1"].tolist() == [1, 0, 1, 0]
    torch.save(geometric.Data(x=x, y=y[:, :1], edge_index=edges), tmp_path / "b.pt")
    assert nearfar.data(tmp_path / "b.pt").labels["label"].tolist() == [0, 1, 0, 1]


def saved(path, unknown, twice=False):
    """Three nodes in a chain; an edge of a fourth; an id that stands twice."""
    names = ["a", "b", "b" if twice else "c"]
    edges = [("a", "b"), ("b", "c"), *[("c", "d")] * unknown]
    if path.suffix == ".json":
        links = [{"source": a, "target": b, "weight": 2} for a, b in edges]
        return path.write_text(json.dumps({"nodes": [{"id": name} for name in names], "links": links}))
    if path.suffix == ".pt":
        geometric = pytest.importorskip("torch_geometric.data")
        index = torch.tensor([["abcd".index(x) for x in edge] for edge in edges]).T
        return torch.save(geometric.Data(x=torch.rand(3, 2), edge_index=index), path)
    nodes = "".join(f'<node id="{name}"/>' for name in names)
    lines = "".join(f'<edge id="{k}" source="{a}" target="{b}"/>' for k, (a, b) in enumerate(edges))
    if path.suffix == ".gexf":
        return path.write_text(f'<gexf xmlns="http://www.gexf.net/1.2draft" version="1.2"><graph><nodes>{nodes}</nodes>'
                               f"<edges>{lines}</edges></graph></gexf>")  # fmt: skip
    return path.write_text(f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">'
                           f"{nodes}{lines}</graph></graphml>")  # fmt: skip


@pytest.mark.parametrize("ending", ["graphml", "gexf", "json", "pt"])
def test_edges_of_unknown_nodes_and_ids_that_stand_twice_in_one_file(tmp_path, ending):
    path = tmp_path / f"g.{ending}"
    saved(path, 0)
    assert pairs(nearfar.data(path)) == {frozenset(p) for p in (("01", "12") if ending == "pt" else ("ab", "bc"))}
    saved(path, 1)
    word = "edge 2 joins node 3" if ending == "pt" else "there is no node 'd'"
    with pytest.raises(InputError, match=word):
        nearfar.data(path)
    left = nearfar.data(path, unreadable="skip")
    assert len(left) == 3
    assert [word in str(problem) for problem in left.problems] == [True]
    if ending != "pt":
        saved(path, 0, twice=True)
        with pytest.raises(InputError, match="the id 'b' stands twice"):
            nearfar.data(path)
    if ending == "json":
        saved(path, 0)
        assert "g.json: weight of the edges is not used" in nearfar.data(path).notes


def test_ids_are_compared_as_they_are_meant(tmp_path):
    """Ends with .0, as a column that lacks one is written; numbers of a JSON file whose links name them as texts."""
    (tmp_path / "edges.csv").write_text("source,target,weight\n1,2.0,3\n2,3.0,1\n3,,1\n")
    (tmp_path / "nodes.csv").write_text("id,x\n1,0.5\n2,1.5\n3,0.1\n")
    data = nearfar.data(tmp_path, unreadable="skip")
    assert pairs(data) == {frozenset("12"), frozenset("23")}
    assert "edges.csv: weight of the edges is not used" in data.notes
    (tmp_path / "nodes.csv").unlink()
    (tmp_path / "edges.csv").write_text("source,target\n1,2.0\n2,3.0\n")
    assert pairs(nearfar.data(tmp_path)) == {frozenset("12"), frozenset("23")}
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"nodes": [{"id": 1}, {"id": 2}], "links": [{"source": "1", "target": "2"}]}))
    assert pairs(nearfar.data(path)) == {frozenset("12")}


def test_a_pickle_with_code_is_refused(tmp_path):
    import pathlib

    torch.save({"edge_index": pathlib.PurePosixPath("x")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="cannot be read as a graph"):
        nearfar.data(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ("id\nv1\nv2\n", "source,target\nv1,v2\nv1,v9\n", r"edges\.csv, line 3: there is no node 'v9'"),
        ("id\nv1\nv1\n", "source,target\nv1,v1\n", r"nodes\.csv, line 3: the id 'v1'.* stands twice"),
        ("id,x\nv1,1\n,2\n", "source,target\nv1,v1\n", r"nodes\.csv, line 3: the id .* is empty"),
        ("id\nv1\nv2\n", "source\nv1\n", r"has 1 column; an edge has two ends"),
        ("id\nv1\nv2\n", "source,target\nv1,\n", r"an end is empty"),
    ],
)
def test_wrong_files_are_told_by_line(tmp_path, nodes, edges, message):
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "edges.csv").write_text(edges)
    with pytest.raises(InputError, match=message):
        nearfar.data(tmp_path)


def test_edges_of_unknown_nodes_may_be_left_out_and_are_counted(tmp_path):
    (tmp_path / "nodes.csv").write_text("id\nv1\nv2\nv3\n")
    (tmp_path / "edges.csv").write_text("source,target\nv1,v2\nv1,v9\nv3,v3\nv2,v3\n")
    data = nearfar.data(tmp_path, unreadable="skip")
    assert [str(p) for p in data.problems] == [f"{tmp_path}/edges.csv, line 3: there is no node 'v9'"]
    assert pairs(data) == {frozenset(("v1", "v2")), frozenset(("v2", "v3"))}
    assert any("1 edges from a node to itself" in note for note in data.notes)


def test_a_table_with_lists_of_neighbours(tmp_path):
    rows = [{"key": f"n{i}", "x": float(i), "cites": [f"n{(i + 1) % 9}", "gone"]} for i in range(9)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    data = nearfar.data(path, roles={"node": "key", "edges": "cites", "features": ["x"]})
    assert pairs(data) == {frozenset((f"n{i}", f"n{(i + 1) % 9}")) for i in range(9)}
    assert any("9 listed ids are those of no row" in note for note in data.notes)
    path.write_text("\n".join(json.dumps(row) for row in [*rows, rows[0]]))
    with pytest.raises(InputError, match=r"line 10: column 'key': the id 'n0' stands twice"):
        nearfar.data(path, roles={"node": "key", "edges": "cites"})
    with pytest.raises(InputError, match="a graph needs edges"):
        nearfar.data(path, roles={"node": "key", "features": ["x"]})


def test_limiting_keeps_the_edges_between_what_is_left(tmp_path):
    folder = write_network(tmp_path / "g")
    whole, part = nearfar.data(folder), nearfar.data(folder, limit=20)
    left = set(part.keys)
    assert pairs(part) == {pair for pair in pairs(whole) if pair <= left}


def test_link_prediction_counts_pairs_that_no_training_saw(network_few, tmp_path):
    task = task_for(network_few, "link-prediction")
    with pytest.raises(InputError, match=r"--graph-held-out 0\.1"):
        fit("grace", network_few, out=tmp_path / "a", task="link-prediction", **PLAN)
    run = fit("grace", network_few, out=tmp_path / "b", task="link-prediction", graph_held_out=0.1, **PLAN)
    embed = ModelEmbedder(nearfar.load(run.path / "model"), network_few)
    scores = task.evaluate(embed, "test")
    edges, others = task.pairs("test")
    z = embed("node", np.arange(len(network_few)))
    good, bad = ((z[p[0]] * z[p[1]]).sum(1) for p in (edges, others))
    wins = np.mean([1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad])
    assert scores.metrics["auc"] == pytest.approx(wins, abs=1e-6)
    known = {tuple(sorted(p)) for p in graph_of(network_few).edges.T.tolist()}
    assert not known & {tuple(p) for p in others.T.tolist()}
    assert {tuple(p) for p in edges.T.tolist()} <= known
    seen = {tuple(sorted(p)) for p in graph_of(network_few, False, 0.1, network_few.seed).edges.T.tolist()}
    assert not seen & {tuple(p) for p in edges.T.tolist()}


def test_types_do_not_tell_edges_from_pairs_without_one(typed_network_few):
    task = task_for(typed_network_few, "link-prediction")
    types = graph_of(typed_network_few).types.numpy()
    known = {tuple(sorted(p)) for p in graph_of(typed_network_few).edges.T.tolist()}
    for split in ("val", "test"):
        edges, others = task.pairs(split)
        assert np.sort(np.sort(types[edges], 0).sum(0)).tolist() == np.sort(np.sort(types[others], 0).sum(0)).tolist()
        assert len({tuple(p) for p in others.T.tolist()} - known) == edges.shape[1]
        assert task.evaluate(lambda _, rows: np.eye(2)[types[rows]], split).metrics["auc"] == 0.5


def test_rows_that_need_no_training(network_few):
    found = {one.slug: one.evaluate("test").metrics for one in references(network_few, task_for(network_few, "labels"))}
    assert {"features", "smoothed", "spectral", "spread"} <= set(found)
    assert found["spread"]["knn"] > found["chance"]["knn"]
    clusters = {one.slug: one.evaluate("test").primary for one in
                references(network_few, task_for(network_few, "clustering"))}  # fmt: skip
    assert "spread" not in clusters


def test_a_model_that_tells_clusters_is_asked(network_few, tmp_path):
    with pytest.raises(InputError, match="--assignment soft has no effect with --against nodes"):
        fit("pamc", network_few, out=tmp_path / "x", against="nodes", assignment="soft", **PLAN)
    run = fit("pamc", network_few, out=tmp_path / "run", clusters=4, **PLAN)
    scores = json.loads((run.path / "scores.json").read_text())["scores"]["test"]
    assert set(scores["metrics"]) == {"nmi", "ari", "accuracy"}
    embed = ModelEmbedder(nearfar.load(run.path / "model"), network_few)
    task = task_for(network_few, "clustering")
    z = embed.raw("node", np.arange(60))
    assert z.shape == (60, 10)
    centres = embed.inference.centres.numpy()
    near = ((z[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    rows = network_few.splits["test"]
    assert task.evaluate(embed, "test").metrics["nmi"] == pytest.approx(
        normalized_mutual_info_score(network_few.labels["label"][rows], near[rows]))  # fmt: skip
    out = tmp_path / "predicted.csv"
    assert cli.main(["predict", str(run.path), str(network_few.path), "--out", str(out)]) == 0
    told = [line.split(",") for line in lines(out)]
    assert [int(row[told[0].index("cluster")]) for row in told[1:]] == near.tolist()


def test_training_sees_all_nodes_or_those_of_its_part(network_few, tmp_path):
    run = fit("grace", network_few, out=tmp_path / "all", **PLAN)
    said = json.loads((run.path / "config.json").read_text())
    assert "trained on all rows" in json.dumps(said) or said
    whole = building.prepare("grace", network_few, TrainSettings(steps=2), {})
    part = building.prepare("grace", network_few, TrainSettings(steps=2, graph_training="train"), {})
    assert len(whole.rows) == 60
    assert part.rows.tolist() == network_few.splits["train"].tolist()
    batch = next(iter(part.loader))
    assert len(batch.inputs["node"].graph) == len(part.rows)
    supervised = building.prepare("simclr", network_few, TrainSettings(steps=2), {"loss": "supcon"})
    assert supervised.rows.tolist() == network_few.splits["train"].tolist()


def test_a_graph_with_other_features_is_refused(network_few, tmp_path):
    run = fit("grace", network_few, out=tmp_path / "run", graph_width=8, **PLAN)
    other = nearfar.data(write_network(tmp_path / "other"), roles={"features": ["a", "b"]})
    with pytest.raises(InputError, match="nodes have 2 numbers; the model was trained on 4 numbers"):
        ModelEmbedder(nearfar.load(run.path / "model"), other)("node", np.arange(3))


def test_from_the_command_line(tmp_path, capsys):
    folder = write_network(tmp_path / "g", text=True)
    out = tmp_path / "run"
    words = ["fit", "csgcl", str(folder), "--steps", "4", "--val-every", "0", "--graph-width", "16", "--out", str(out)]
    assert cli.main(words) == 0
    assert cli.main(["report", str(out)]) == 0
    assert cli.main(["embed", str(out / "model"), str(folder), "--out", str(tmp_path / "index")]) == 0
    capsys.readouterr()
    assert cli.main(["search", str(tmp_path / "index"), "key:v3", "--json"]) == 0
    assert "v3" in capsys.readouterr().out
    assert cli.main(["search", str(tmp_path / "index"), "v3"]) == 2
    assert "key:ID" in capsys.readouterr().err
    neighbours = ["fit", "grace", str(folder), "--steps", "3", "--val-every", "0", "--graph-neighbours", "4,2",
                  "--batch-size", "16", "--graph-encoder", "sage", "--graph-width", "16"]  # fmt: skip
    assert cli.main([*neighbours, "--out", str(tmp_path / "n")]) == 0
    assert cli.main([*neighbours[:8], "4", "--out", str(tmp_path / "x")]) == 2
    assert "a number for each of the 2 layers" in capsys.readouterr().err


def test_batch_norm_is_what_the_method_or_the_user_says(network_few, tmp_path):
    """BGRL is made for it; its running statistics are saved with the model."""
    run = fit("bgrl", network_few, out=tmp_path / "normed", graph_width=16, **PLAN)
    model = nearfar.load(run.path / "model")
    encoder = model.roles["node"].encoder
    assert [type(one) for one in encoder.norms] == [torch.nn.BatchNorm1d] * 2
    assert encoder.norms[0].running_mean.abs().sum() > 0
    graph = graph_of(network_few)
    h = encoder.scaled(graph)[0]
    dense = torch.eye(60)
    dense[graph.edges[1], graph.edges[0]] = 1
    root = dense.sum(1).rsqrt()
    with torch.no_grad():
        for conv, norm in zip(encoder.convs, encoder.norms, strict=True):
            h = root[:, None] * dense * root @ (h @ conv.lin.weight.T) + conv.bias
            h = (h - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            h = torch.where(h > 0, h, encoder.activation.weight * h)
        found = encoder.eval()(Nodes(graph, torch.arange(60)))
    torch.testing.assert_close(found, h, rtol=1e-4, atol=1e-5)
    plain = fit("bgrl", network_few, out=tmp_path / "plain", graph_width=16, graph_norm="none", **PLAN)
    assert not list(nearfar.load(plain.path / "model").roles["node"].encoder.norms.parameters())
