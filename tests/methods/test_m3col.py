"""M3CoL: groups of numbers as modalities, images with words, both phases, and the class that is told."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.testing import assert_close

import nearfar
from nearfar import losses
from nearfar.cli import main
from nearfar.encoders.numeric import GroupedVectors, VectorEncoder
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.methods.row_modalities import column_groups, roles_of_modalities
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.settings import TrainSettings

GROUPS = "rna_*; cpg=meth_a,meth_b; *_mir"
COLUMNS = ["rna_1", "rna_2", "rna_3", "meth_a", "meth_b", "x_mir", "y_mir"]
SMALL = {"vector_width": 16, "vector_layers": 1}
PARTS = {"train": 60, "val": 20, "test": 20}


def rows_of(n=100, seed=0):
    """Three groups of numbers of n rows, each of which tells a part of the class."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    values = rng.normal(size=(n, len(COLUMNS)))
    values[:, 0] += 2.0 * (kind == 0)
    values[:, 3] += 2.0 * (kind == 1)
    values[:, 6] = 10 * values[:, 6] + 20.0 * (kind == 2)
    return values, kind


def write_groups(path, **changed):
    """A csv of them; changed: (row, column) -> what stands in that cell."""
    values, kind = rows_of()
    splits = [name for name, count in PARTS.items() for _ in range(count)]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["key", *COLUMNS, "kind", "split"])
        for number, row in enumerate(values):
            cells = [changed.get(f"r{number}_{name}", f"{v:.6f}") for name, v in zip(COLUMNS, row, strict=True)]
            out.writerow([f"s{number}", *cells, "abc"[kind[number]], splits[number]])
    return path


TABLE = {"vector": ["rna_*", "meth_*", "*_mir"], "id": "key", "target": "kind", "split": "split"}
FLAGS = ["--vector", "rna_*,meth_*,*_mir", "--id", "key", "--target", "kind", "--split", "split"]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return open_data(write_groups(tmp_path_factory.mktemp("groups") / "omics.csv"), roles=TABLE)


def prepared(data, settings=(), **options):
    given = TrainSettings(**{"batch_size": 12, "steps": 9, "val_every": 0, **SMALL, **dict(settings)})
    return building.prepare("m3col", data, given, options)


def drawn(made, step=0):
    batch = made.loader.at(step)
    batch.views = made.method.make_views(batch)
    return batch


# -- what the modalities are


def test_groups_are_read_from_names_and_patterns():
    assert column_groups(COLUMNS, GROUPS) == {"rna": [0, 1, 2], "cpg": [3, 4], "mir": [5, 6]}
    listed = ["rna[0]", "rna[1]", "meth[0]", "mir"]
    assert column_groups(listed, "rna; meth, mir") == {"rna": [0, 1], "meth": [2, 3]}
    assert column_groups(["a[0]", "a[1]", "b[0]", "b[1]"]) == {"a": [0, 1], "b": [2, 3]}
    assert list(column_groups(["mean radius", "radius error"], "mean *; *error")) == ["mean", "error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (None, "One row of 7 numbers is one modality"),
        ("rna_*", "two groups or more"),
        ("rna_*; meth_*", "'x_mir' is in no group"),
        ("rna_*,meth_a; meth_*; *_mir", "'meth_a' is in 'rna_meth' and in 'meth'|'meth_a' is in 'rna' and in 'meth'"),
        ("rna_*; methh_a; *_mir", "called 'methh_a'.*meth_a"),
        ("a=rna_*; a=meth_*; *_mir", "'a' cannot be the name"),
        ("fusion=rna_*; meth_*; *_mir", "'fusion' cannot be the name"),
        ("rna=; meth_*", "'rna' has no columns"),
    ],
)
def test_groups_that_are_none_are_told(words, message):
    with pytest.raises(InputError, match=message):
        column_groups(COLUMNS, words)


def test_roles_that_are_modalities():
    assert roles_of_modalities({"text", "image", "target", "domain"}) == ["image", "text"]
    assert roles_of_modalities({"text", "text_b", "vector", "vector_b"}) == ["text", "text_b", "vector"]
    assert roles_of_modalities({"node", "text"}) == ["text"]
    assert roles_of_modalities({"user", "item"}) == []


# -- numbers


def test_numbers_are_scaled_by_the_training_rows(groups):
    """Min-max by train statistics, an empty cell at the mean, a number that never changes only shifted."""
    encoder = prepared(groups, groups=GROUPS).method.encoders[0].encoder
    assert encoder.scale == "min-max"
    values = rows_of()[0][:60].astype(np.float32)
    assert_close(encoder.low.numpy(), values.min(0), rtol=1e-5, atol=1e-5)
    x = torch.from_numpy(values)
    scaled = encoder.scaled(x)
    assert_close(scaled.amin(0), torch.zeros(7), atol=1e-6, rtol=0)
    assert_close(scaled.amax(0), torch.ones(7), atol=1e-6, rtol=0)
    x[3, 2] = float("nan")
    assert_close(encoder.scaled(x)[3, 2], scaled[:, 2].mean(), atol=1e-5, rtol=0)
    still = VectorEncoder(["a", "b"], dim=4, layers=0, scale="min-max").standardise(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert_close(still.scaled(torch.tensor([[2.0, 6.0]])), torch.tensor([[0.5, 1.0]]))


def test_each_group_sees_its_own_numbers_alone(groups):
    encoder = prepared(groups, groups=GROUPS).method.encoders[0].encoder
    assert isinstance(encoder, GroupedVectors)
    x = torch.randn(4, 7)
    moved = x.clone()
    moved[:, 3:5] += 1
    same = [torch.equal(a, b) for a, b in zip(encoder.each(x), encoder.each(moved), strict=True)]
    assert same == [True, False, True]
    assert torch.equal(encoder(x), torch.cat(encoder.each(x), 1))
    assert torch.equal(encoder.variants()["cpg"](x), encoder.each(x)[1])


# -- the loss


def test_the_phases_are_those_of_the_functions(groups):
    """Mixtures in the first third of the steps, soft targets afterwards, around the three groups."""
    made = prepared(groups, groups=GROUPS, weight=0.5, phase=0.4, rate=0.9)
    method = made.method
    assert made.resolved["soft_from_step"] == 3
    for step in (0, 2, 3, 8):
        batch = drawn(made, step)
        embedded = method.encode(batch)
        e, y = embedded["vectors"], batch.targets
        known = sum(torch.nn.functional.cross_entropy(x, y) for x in method.fused(e).values())
        around = ((0, 1), (1, 2), (2, 0))
        if step < 3:
            draws = [losses.draw_mixture(12, rate=0.9, seed=(batch.random_seed, k)) for k in range(3)]
            assert len({tuple(partner.tolist()) for partner, _ in draws}) == 3
            wanted = sum(losses.m3co(losses.mix_rows(e[a], *draws[a]), e[b], *draws[a]) for a, b in around)
        else:
            wanted = sum(losses.soft_contrast(e[a], e[b]) for a, b in around)
        assert_close(method.loss(embedded, batch).total, known + 0.5 * wanted)
        assert_close(method.loss(embedded, batch).terms["contrast"], wanted.detach())


def test_the_classifiers_never_see_mixtures_and_get_nothing_of_the_contrast(groups):
    """Invariants 7 and 8."""
    made = prepared(groups, groups=GROUPS, rate=1.0, alpha=5.0)
    batch = drawn(made)
    embedded = made.method.encode(batch)
    made.method.contrast(embedded, batch).backward()
    assert all(p.grad is None for p in made.method.fused.parameters())
    assert all(p.grad is not None for p in made.method.encoders.parameters())
    plain = prepared(groups, groups=GROUPS, weight=0.0)
    plain.method.load_state_dict(made.method.state_dict())
    loss = plain.method.loss(embedded, batch)
    assert set(loss.terms) == {"fusion"}
    assert_close(loss.total + 0.1 * made.method.contrast(embedded, batch), made.method.loss(embedded, batch).total)
    assert_close(loss.terms["fusion"], torch.nn.functional.cross_entropy(
        made.method.fused.logits(embedded["vectors"]), batch.targets).detach())  # fmt: skip


def test_without_mixing_the_contrast_is_clip(groups):
    made = prepared(groups, groups=GROUPS, rate=0.0, phase=1.0)
    batch = drawn(made, 8)
    e = made.method.encode(batch)["vectors"]
    wanted = sum(losses.clip(e[a], e[b], temperature=0.1) for a, b in ((0, 1), (1, 2), (2, 0)))
    assert_close(made.method.contrast({"vectors": e, "mixed": []}, batch), wanted)


def test_equal_captions_are_no_negatives(tmp_path):
    """Of images whose captions are one of three; not so in the paper's preset."""
    table = write_mixed(tmp_path, caption=lambda k: f"thing {k % 3}")
    data = open_data(table, roles={name: column for name, column in MIXED.items() if name != "vector"})
    small = {"batch_size": 12, "image_size": 16, "text_encoder": "tiny"}
    options = {"weight": 1.0, "phase": 1.0, "rate": 0.0}
    masked, plain = (prepared(data, small, **options, mask_duplicates=m) for m in (True, False))
    plain.method.load_state_dict(masked.method.state_dict())
    batch = drawn(masked)
    e = masked.method.encode(batch)
    ids, (x, y) = batch.content["text"], e["vectors"]
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.1
    equal = (ids[:, None] == ids[None]) & ~torch.eye(12, dtype=torch.bool)
    assert equal.any()
    loss = [torch.nn.functional.cross_entropy(t.masked_fill(equal, -torch.inf), torch.arange(12)) for t in (s, s.T)]
    assert_close(masked.method.contrast(e, batch), sum(loss))
    assert plain.method.contrast(e, batch) > masked.method.contrast(e, batch)
    assert masked.method.loss(e, batch).terms["masked"] == pytest.approx(equal.float().mean().item() * 12 / 11)
    assert "masked" not in plain.method.loss(e, batch).terms
    assert building.method_options("m3col", {}, "paper").mask_duplicates is False


def test_rows_equal_in_a_group_of_numbers_are_no_negatives_where_it_is_compared(tmp_path):
    """A third group says nothing of two others."""
    few = {f"r{n}_{name}": str(n % 3) for n in range(100) for name in ("meth_a", "meth_b")}
    data = open_data(write_groups(tmp_path / "few.csv", **few), roles=TABLE)
    made = prepared(data, groups=GROUPS, rate=0.0, phase=1.0)
    batch = drawn(made)
    e, value = made.method.encode(batch)["vectors"], batch.inputs["vector"][:, 3]
    equal = (value[:, None] == value) & ~torch.eye(12, dtype=torch.bool)
    assert equal.any()
    wanted = torch.tensor(0.0)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        s = torch.nn.functional.normalize(e[a]) @ torch.nn.functional.normalize(e[b]).T / 0.1
        s = s.masked_fill(equal, -torch.inf) if 1 in (a, b) else s
        wanted = wanted + sum(torch.nn.functional.cross_entropy(one, torch.arange(12)) for one in (s, s.T)) / 2
    embedded = {"vectors": e, "mixed": []}
    assert_close(made.method.contrast(embedded, batch), wanted)
    share = equal.float().sum().item() / (12 * 11)
    assert made.method.loss(embedded, batch).terms["masked"] == pytest.approx(2 * share / 3)


def test_inputs_are_mixed_group_by_group(groups):
    made = prepared(groups, groups=GROUPS, mix="inputs", rate=1.0, alpha=2.0)
    batch = drawn(made)
    clean, mixed = batch.views["vector"]
    for k, places in enumerate(([0, 1, 2], [3, 4], [5, 6])):
        partner, shares = losses.draw_mixture(12, rate=1.0, alpha=2.0, seed=(batch.random_seed, k))
        for i, j in enumerate(partner.tolist()):
            assert_close(mixed[i, places], shares[i] * clean[i, places] + (1 - shares[i]) * clean[j, places])
    embedded = made.method.encode(batch)
    for x, y in zip(embedded["mixed"], made.method.encoders[0].encoder.each(mixed), strict=True):
        assert torch.equal(x, y)
    assert len(drawn(made, 8).views["vector"]) == 1  # soft targets mix nothing


def test_classifiers_start_by_xaviers_rule(groups):
    fused = prepared(groups, groups=GROUPS).method.fused
    linear = [part for part in fused.heads.modules() if isinstance(part, torch.nn.Linear)]
    assert all(not part.bias.any() for part in linear)
    first = linear[0]
    assert first.in_features == 48
    assert float(first.weight.detach().std()) == pytest.approx((2 / (48 + 16)) ** 0.5, rel=0.15)
    assert list(fused.places) == ["fusion", "rna", "cpg", "mir"]
    assert list(prepared(groups, groups=GROUPS, unimodal=False).method.fused.places) == ["fusion"]


# -- end to end


def by_hand(folder, table, head):
    """Class numbers of all rows from the saved tensors and the cells of the csv, in numpy alone; head 0 sees all."""
    with table.open() as file:
        cells = np.array([[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file)], np.float32)
    low, high = cells[:60].min(0), cells[:60].max(0)
    scaled, state, made = (cells - low) / (high - low), load_file(folder / "model" / "model.safetensors"), []
    for k, places in enumerate(([0, 1, 2], [3, 4], [5, 6])):
        w = {n: state[f"vector.encoder.net.{k}.{n}"] for n in ("0.weight", "0.bias", "2.weight", "2.bias")}
        hidden = np.maximum(scaled[:, places] @ w["0.weight"].T + w["0.bias"], 0)
        made.append(hidden @ w["2.weight"].T + w["2.bias"])
    x = np.concatenate(made, 1) if head == 0 else made[head - 1]
    for place in (0, 2):
        w = (state[f"inference.fused.heads.{head}.{place}.{n}"] for n in ("weight", "bias"))
        weight, bias = w
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if place == 0 else x
    return x.argmax(1)


def test_a_table_of_three_groups_by_hand(tmp_path, capsys):
    table, run = write_groups(tmp_path / "omics.csv"), tmp_path / "run"
    fit = ["fit", "m3col", str(table), *FLAGS, "--groups", GROUPS, "--vector-width", "16", "--vector-layers", "1"]
    plan = ["--steps", "60", "--batch-size", "60", "--lr", "0.01", "--val-every", "0"]
    assert main([*fit, *plan, "--dry-run"]) == 0
    assert "rna, cpg, mir" in capsys.readouterr().out
    assert main([*fit, *plan, "--out", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["scores"]["test"]
    lines = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    assert {"fusion", "contrast"} <= set(lines[-1])
    kind = rows_of()[1]
    for by, head in ((None, 0), ("cpg", 2)):
        out = tmp_path / f"{head}.jsonl"
        asked = [] if by is None else ["--by", by]
        assert main(["predict", str(run), str(table), *FLAGS, "--out", str(out), *asked]) == 0
        found = [json.loads(line)["prediction"] for line in out.read_text().splitlines()]
        hand = by_hand(run, table, head)
        assert found == ["abc"[k] for k in hand]
        if by is None:
            assert told["metrics"]["accuracy"] == pytest.approx(np.mean(hand[80:] == kind[80:]))
            assert np.mean(hand[80:] == kind[80:]) > 0.6
    model = nearfar.load(run / "model", verify=True)
    assert model.variants == ["cpg", "mir", "rna"]
    assert model.embed(rows_of()[0][:2].tolist()).shape == (2, 48)
    assert model.embed(rows_of()[0][:2].tolist(), variant="cpg").shape == (2, 16)
    assert main(["predict", str(run), str(table), *FLAGS, "--by", "protein"]) != 0
    assert "no classifier 'protein'" in capsys.readouterr().err


def test_lists_in_columns_are_a_modality_each(tmp_path):
    values, kind = rows_of(80)
    lines = [json.dumps({"rna": row[:3].tolist(), "meth": row[3:5].tolist(), "mir": row[5:].tolist(), "kind": "abc"[k]})
             for row, k in zip(values, kind, strict=True)]  # fmt: skip
    path = tmp_path / "lists.jsonl"
    path.write_text("\n".join(lines) + "\n")
    data = open_data(path, roles={"vector": ["rna", "meth", "mir"], "target": "kind"})
    assert prepared(data).method.named == ["rna", "meth", "mir"]


def test_images_and_words(emoji_few):
    made = prepared(emoji_few, {"batch_size": 8})
    assert made.method.named == ["image", "text"]
    assert made.method.layers == 3
    batch = drawn(made)
    e = made.method.encode(batch)["vectors"]
    assert [tuple(x.shape) for x in e] == [(8, made.method.dim)] * 2
    assert list(made.method.towers()) == ["image", "text"]


def write_mixed(folder, n=60, empty=None, caption=None):
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["image,caption,weight,height,kind,split"]
    for k in range(n):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{k}.png")
        told = "" if k == empty else caption(k) if caption else f"thing {k} {'ab'[k % 2]}"
        lines.append(f"{k}.png,{told},{k % 7},{k % 5}.5,{'ab'[k % 2]},{('train', 'train', 'val', 'test')[k % 4]}")
    path = folder / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


MIXED = {"image": "image", "text": "caption", "vector": ["weight", "height"], "target": "kind", "split": "split"}


def test_images_words_and_numbers_together(tmp_path):
    data = open_data(write_mixed(tmp_path), roles=MIXED)
    small = {"batch_size": 8, "image_size": 16, "text_encoder": "tiny"}
    made = prepared(data, small)
    assert made.method.named == ["image", "text", "vector"]
    assert isinstance(made.method.encoders[0].head, torch.nn.Linear)  # the encoders differ in width
    assert {x.shape for x in made.method.encode(drawn(made))["vectors"]} == {(8, 256)}
    made = prepared(data, small, groups="weight; height", mix="inputs", rate=1.0)
    assert made.method.named == ["image", "text", "weight", "height"]
    assert made.method.encoders[2].encoder.join == "mean"
    batch = drawn(made)
    embedded = made.method.encode(batch)
    assert {x.shape for x in embedded["vectors"]} == {(8, 256)}
    assert [len(batch.views[role]) for role in ("image", "text", "vector")] == [2, 1, 2]
    draws = [made.method.mixture(batch, k) for k in range(4)]
    mixed = made.method.mixtures(embedded, draws)
    assert torch.equal(mixed[0], embedded["mixed"][0])
    assert_close(mixed[1], losses.mix_rows(embedded["vectors"][1], *draws[1]))
    assert torch.equal(mixed[3], embedded["mixed"][2])
    images = batch.views["image"]
    assert_close(images[1], losses.mix_rows(images[0], *draws[0]))


def test_raw_features_of_each_modality_stand_beside(emoji_few):
    """Of two kinds of data each alone, read by a logistic regression."""
    task = task_for(emoji_few, "classification")
    rows = {one.label: one for one in references(emoji_few, task)}
    assert {"commonest class", "raw pixels", "HOG", "TF-IDF"} == set(rows)
    assert task.roles == ("image", "text")
    assert 0 <= rows["TF-IDF"].evaluate("test").primary <= 1


# -- what is wrong


def test_a_row_that_lacks_a_modality_is_told(tmp_path):
    table = write_groups(tmp_path / "hole.csv", r7_meth_a="", r7_meth_b="")
    with pytest.raises(InputError, match=r"the group 'cpg' of row 's7' is empty \(1 such rows\)"):
        prepared(open_data(table, roles=TABLE), groups=GROUPS)
    table = write_groups(tmp_path / "cell.csv", r7_meth_a="")
    assert prepared(open_data(table, roles=TABLE), groups=GROUPS).method.named == ["rna", "cpg", "mir"]
    with pytest.raises(InputError, match="caption"):
        prepared(open_data(write_mixed(tmp_path, empty=4), roles=MIXED), {"batch_size": 8})


def test_errors(groups, tmp_path, emoji_few):
    with pytest.raises(InputError, match="One row of 7 numbers is one modality"):
        prepared(groups)
    with pytest.raises(InputError, match="there are none"):
        prepared(emoji_few, {"batch_size": 8}, groups="a; b")
    with pytest.raises(InputError, match="Leave out --freeze"):
        prepared(groups, {"freeze": True}, groups=GROUPS)
    with pytest.raises(InputError, match="official"):
        prepared(groups, groups=GROUPS, official=True, mix="inputs")
    path = tmp_path / "one.csv"
    path.write_text("a_1,b_1,kind\n" + "".join(f"{k % 7}.5,{k % 5}.25,same\n" for k in range(40)))
    with pytest.raises(InputError, match="'kind' is 'same' in all"):
        prepared(open_data(path, roles={"vector": ["a_1", "b_1"], "target": "kind"}), groups="a_*; b_*")
    assert "--groups" in nearfar.methods.get("m3col").lacks(groups)
    assert nearfar.methods.get("m3col").lacks(emoji_few) == ""


def test_presets_are_those_of_the_paper(groups):
    """Images and texts as N24News; groups of numbers as ROSMAP."""
    chosen = building.method_options("m3col", {}, "paper")
    assert (chosen.alpha, chosen.rate, chosen.weight, chosen.phase) == (0.15, 0.5, 0.1, 0.33)
    assert (chosen.text_lr, chosen.head_lr, chosen.hidden, chosen.layers) == (2e-5, 1e-4, 256, 3)
    training = nearfar.methods.get("m3col").training_preset({})
    assert (training["optimiser"], training["lr"], training["weight_decay"]) == ("adam", 5e-5, 1e-4)
    made = prepared(groups, {"preset": "paper"}, groups=GROUPS)
    assert (made.method.optimisation.lr, made.method.optimisation.optimiser) == (2e-3, "adam")
    assert made.method.rates == (None, None)
    assert (made.method.hidden, made.method.layers) == (16, 2)


def test_rates_of_texts_and_classifiers(emoji_few):
    method = prepared(emoji_few, {"batch_size": 8, "lr": 1e-3}, text_lr=2e-4, head_lr=5e-3).method
    scaled = method.scaled_parameters()
    assert {round(scaled[p], 6) for p in method.encoders[1].parameters()} == {0.2}
    assert {round(scaled[p], 6) for p in method.fused.parameters()} == {5.0}
    assert not any(p in scaled for p in method.encoders[0].parameters())
