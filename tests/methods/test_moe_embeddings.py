"""MoE Embeddings: routing by the domain of a row, what experts learn, forms of the loss, and wrong domains."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import nearfar
from nearfar import losses
from nearfar.cli import main
from nearfar.encoders import pad
from nearfar.errors import InputError
from nearfar.methods.text.moe_embeddings import exchanged
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.conftest import write_domains
from tests.small import SMALL

FLAGS = ["--text-encoder", "tiny", "--text-length", "24", "--vocabulary", "300", "--domain", "field"]


def prepared(data, settings=(), **options):
    given = TrainSettings(**{"batch_size": 12, "steps": 4, **SMALL, **dict(settings)})
    return building.prepare("moe-embeddings", data, given, options)


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_domains(tmp_path_factory.mktemp("moe") / "pairs.csv", 90)


@pytest.fixture(scope="module")
def data(table):
    return open_data(table, roles={"domain": "field"})


def test_the_domain_of_a_row_names_its_expert(data):
    made = prepared(data)
    _, batch, _ = step(made)
    names = made.method.tower_a.encoder.domain_names
    for role in ("text", "text_b"):
        told = [names[k] for k in batch.views[role][0].route.tolist()]
        assert told == data.values("domain", batch.rows.numpy())


def test_texts_see_their_own_expert_alone(data):
    """Invariants 2 and 3: an absent domain's expert has no gradient; a changed expert moves its own texts alone."""
    made = prepared(data, mask_duplicates=False)
    made.method.eval()
    rows = data.splits["train"]
    sea = rows[np.array(data.values("domain", rows)) == "sea"][:8]
    batch = made.loader.batch(sea, 0)
    batch.views = made.method.make_views(batch)
    made.method.loss(made.method.encode(batch), batch).total.backward()
    for name, p in made.method.named_parameters():
        if place := name.partition(".experts.")[2][:1]:
            assert (p.grad is not None) == (place == "0"), name
    _, batch, _ = step(made)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turned = made.loader.batch(batch.rows[order].numpy(), 0)
    made.method.swap = False
    first, turned.views = made.loader.batch(batch.rows.numpy(), 0), made.method.make_views(turned)
    first.views = made.method.make_views(first)
    plain = made.method.encode(first)
    assert_close(made.method.encode(turned)["a"], plain["a"][order], rtol=1e-4, atol=1e-5)
    for layer in made.method.tower_a.encoder.stack:
        layer.mlp.experts[2][0].weight.data *= 1.5
    moved = (made.method.encode(first)["a"] - plain["a"]).abs().amax(1) > 1e-6
    assert moved.tolist() == [name == "wood" for name in data.values("domain", batch.rows.numpy())]


@pytest.mark.parametrize("objective", ["mnr", "mnr+"])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_is_that_of_the_functions(data, objective, normalise):
    made = prepared(data, objective=objective, normalise=normalise, mask_duplicates=False)
    made.method.eval()
    embedded, _, loss = step(made)
    form = losses.mnr if objective == "mnr" else losses.mnr_plus
    wanted = form(embedded["a"], embedded["b"], temperature=0.05 if normalise else 1.0, normalised=normalise)
    assert_close(loss.total, wanted)


def test_the_router_is_taught_the_domain(data):
    made = prepared(data, routing="router", pooler="tanh", router_weight=0.7, balance_weight=0.2)
    made.method.eval()
    embedded, batch, loss = step(made)
    a, b = (embedded[f"router_{side}"].transpose(0, 1) for side in "ab")
    assert a.shape == (2, 12, 3)
    numbers = torch.tensor([["sea", "sky", "wood"].index(x) for x in data.values("domain", batch.rows.numpy())])
    router, balance = losses.router_loss(a, b, numbers), losses.balance_loss(torch.cat([a, b], 1))
    assert loss.terms["router"] == pytest.approx(router.item())
    made.method.router_weight = made.method.balance_weight = 0.0
    rest = made.method.loss(embedded, batch).total
    assert_close(loss.total, rest + 0.7 * router + 0.2 * balance)


def test_pairs_are_exchanged_by_the_draw():
    a, b = pad([[1, 2, 3], [4], [5]]), pad([[6], [7, 8], [9]])
    a, b = a._replace(route=torch.tensor([0, 1, 2])), b._replace(route=torch.tensor([0, 1, 2]))
    one, two = exchanged(a, b, torch.tensor([True, False, True]))
    told = [[x.ids[i, x.mask[i]].tolist() for i in range(3)] for x in (one, two)]
    assert told == [[[6], [4], [9]], [[1, 2, 3], [7, 8], [5]]]
    assert one.route.tolist() == [0, 1, 2]


def test_a_draw_exchanges_some_pairs_and_none_without(data):
    embedded = {swap: step(prepared(data, swap=swap))[1].views["text"][0] for swap in (True, False)}
    wanted = prepared(data, swap=False).loader.at(0).inputs["text"]
    plain = embedded[False]
    assert plain.mask.sum() == wanted.mask.sum() + 2 * len(wanted.ids)
    some = embedded[True]
    width = min(some.ids.shape[1], plain.ids.shape[1])
    same = (some.ids[:, :width] == plain.ids[:, :width]).all(1)
    assert 0 < same.sum() < 12


def test_baselines_and_poolers(data):
    joint = prepared(data, routing="none").method.tower_a.encoder
    assert "experts" not in joint.config()
    assert joint.domain_names == ["sea", "sky", "wood"], "it has tokens of domains as well"
    free = prepared(data, routing="none", token=False, pooler="none")
    assert not free.method.tower_a.encoder.domain_names
    step(free)[2].total.backward()
    routed = prepared(data, routing="router", token=False).method.tower_a.encoder
    assert routed(routed.prepare(["the fish"])).shape == (1, 128), "a router needs no domain"
    with pytest.raises(InputError, match="'moe-embeddings' looks into the layers"):
        prepared(data, settings={"text_encoder": "small"})


def test_wrong_domains_are_told(table, tmp_path):
    lines = table.read_text().splitlines()
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(line.rpartition(",")[0] + ",sea" for line in lines[1:])]) + "\n")
    with pytest.raises(InputError, match=r"All training rows are of one domain \('sea' in 'field'\)"):
        prepared(open_data(one, roles={"domain": "field"}))
    some = tmp_path / "some.csv"
    some.write_text("\n".join([lines[0], *(line.rpartition(",")[0] + "," for line in lines[1:40]), *lines[40:]]) + "\n")
    with pytest.raises(InputError, match=r"\d+ of \d+ training rows have no domain in 'field'"):
        prepared(open_data(some, roles={"domain": "field"}))
    with pytest.raises(InputError, match="'moe-embeddings' needs domain"):
        prepared(open_data(table))


@pytest.mark.parametrize("part", ["val", "test"])
def test_rows_that_are_measured_need_a_known_domain(part, table, tmp_path):
    """Before training, not after it; a router without tokens needs none."""
    lines = table.read_text().splitlines()
    splits = ["train"] * 60 + ["val"] * 15 + ["test"] * 15
    rows = [f"{line},{split}" for line, split in zip(lines[1:], splits, strict=True)]
    place, path = splits.index(part), tmp_path / "t.csv"
    roles = {"domain": "field", "split": "split"}
    for cell, says in (("cave", r"1 of 15 {} rows have a domain that no training row has \(cave\) in 'field'"),
                       ("", "1 of 15 {} rows have no domain in 'field'")):  # fmt: skip
        field = lines[1 + place].rpartition(",")[2]
        changed = [*rows[:place], rows[place].replace(f",{field},", f",{cell},"), *rows[place + 1 :]]
        path.write_text("\n".join([lines[0] + ",split", *changed]) + "\n")
        opened = open_data(path, roles=roles)
        with pytest.raises(InputError, match=says.format(part)):
            prepared(opened)
        prepared(opened, routing="router", token=False)


def test_hard_negatives_have_no_place_among_raw_products(table, tmp_path):
    path = tmp_path / "t.csv"
    lines = table.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",wrong", *(f"{line},it is {k}" for k, line in enumerate(lines[1:]))]) + "\n")
    opened = open_data(path, roles={"domain": "field", "negative": "wrong"})
    with pytest.raises(InputError, match=r"hard negatives have no place there[\s\S]*--normalise true"):
        prepared(opened, normalise=False)
    assert "negative" in step(prepared(opened))[0]


def test_the_router_alone_takes_its_weights():
    for name in ("router_weight", "balance_weight"):
        flag = f"--{name.replace('_', '-')}"
        with pytest.raises(InputError, match=f"{flag} 0.5 has no effect with --routing domain: it belongs to --routing "
                                             "router"):  # fmt: skip
            building.method_options("moe-embeddings", {name: "0.5"}, "auto")
        found = building.method_options("moe-embeddings", {name: "0.5", "routing": "router"}, "auto")
        assert getattr(found, name) == 0.5


def test_the_paper_is_as_released(data):
    made = building.method_options("moe-embeddings", {}, "paper")
    assert (made.normalise, made.mask_duplicates, made.temperature) == (False, False, "auto")
    first = building.method_options("moe-embeddings", {"routing": "router"}, "paper")
    assert (first.normalise, first.temperature, first.learn_temperature, first.pooler) == (False, 0.7, True, "tanh")


def test_from_a_table_to_answers(table, data, tmp_path, capsys):
    """fit, evaluate, embed and search, from the command line; texts of the index take their own domains."""
    run = str(tmp_path / "run")
    assert main(["fit", "moe-embeddings", str(table), *FLAGS, "--steps", "30", "--batch-size", "16", "--val-every", "0",
                 "--out", run, "--device", "cpu"]) == 0  # fmt: skip
    assert main(["fit", "moe-embeddings", str(table), *FLAGS, "--dry-run"]) == 0
    model = nearfar.load(tmp_path / "run" / "model", verify=True)
    mlps = [layer.mlp.experts for layer in model.roles["text"].encoder.stack]
    assert all((a[0].weight - b[0].weight).abs().max() > 1e-4 for a, b in [(m[0], m[1]) for m in mlps])
    assert main(["evaluate", run, str(table), "--domain", "field"]) == 0
    assert main(["embed", run, str(table), "--domain", "field", "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "where is the fish of day 3", "--variant", "sea"]) == 0
    capsys.readouterr()
    assert main(["search", str(tmp_path / "index"), "where is the fish"]) == 2
    assert "texts name none" in capsys.readouterr().err.replace("\n", " ")
    assert main(["embed", run, str(table), "--out", str(tmp_path / "other")]) == 2
    from nearfar.training.modelled import ModelEmbedder

    rows = np.arange(6)
    found = ModelEmbedder(model, data)("text", rows)
    for row in rows:
        name = data.values("domain")[row]
        np.testing.assert_allclose(found[row], model.embed(data.texts("text")[row : row + 1], variant=name)[0],
                                   rtol=1e-3, atol=1e-5)  # fmt: skip
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(table.read_text().replace(",wood", ",cave"))
    assert main(["evaluate", run, str(foreign), "--domain", "field"]) == 2
    assert "none that this model knows (sea, sky, wood; here also cave)" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]["primary"] >= 0
