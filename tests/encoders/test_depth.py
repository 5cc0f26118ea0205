"""Stages of encoders: learning rates that decay by depth, and first stages that rest."""

import copy
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import nearfar
from nearfar import encoders
from nearfar.cli import main
from nearfar.encoders.depth import freeze_stages, rates
from nearfar.errors import InputError
from tests.encoders.test_recompute import openclip_text, vit
from tests.encoders.transformer_folder import TEXTS, write_bert

SGD = {"optimiser": "sgd", "lr": 0.1, "weight_decay": 0.0, "warmup": 0, "schedule": "constant"}
QUICK = {"steps": 1, "batch_size": 16, "val_every": 0, "progress": False, "limit": 120}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(write_bert(tmp_path_factory.mktemp("bert") / "bert"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """Weights of a small network of timm with batch norms, as a user's file."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    words = ["cat", "dog", "mat", "sat", "ran", "fell"]
    rows = [f"a {a} {b} {i},the {b} on {a} {i}" for i, (a, b) in enumerate((a, b) for a in words for b in words)]
    path.write_text("\n".join(["question,answer", *rows, *(f"{r} too" for r in rows)]) + "\n")
    return path


def beit(name, blocks):
    """The stage of a parameter as BEiT's `get_num_layer` counts it, from names alone."""
    found = re.search(r"(?:layers?|stack|blocks|resblocks)\.(\d+)\.", name)
    if found:
        return int(found[1]) + 1
    embeds = ("embed", "table", "places", "cls_token", "position")
    return 0 if any(word in name for word in embeds) else blocks + 1


@pytest.mark.parametrize("name", ["tiny", "bert", "vit of transformers", "open_clip"])
def test_stages_as_the_names_of_parameters_tell(name, bert):
    torch.manual_seed(0)
    make = {"tiny": lambda: encoders.text("tiny", texts=TEXTS * 9, vocabulary=60), "bert": lambda: encoders.text(bert),
            "vit of transformers": vit, "open_clip": openclip_text}  # fmt: skip
    encoder = make[name]()
    found = encoder.stages()
    assert len(found) == 4
    place = {p: i for i, stage in enumerate(found) for p in stage}
    assert len(place) == len(list(encoder.parameters()))
    for own, p in encoder.named_parameters():
        assert place[p] == beit(own, 2), own


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_rates_are_those_of_timm(name):
    import timm
    from timm.optim import param_groups_layer_decay

    whole = timm.create_model(name, num_classes=3)
    names = {p: own for own, p in whole.named_parameters()}
    theirs = {names[p]: g["lr_scale"] for g in param_groups_layer_decay(whole, layer_decay=0.7) for p in g["params"]}
    encoder = encoders.image(name, size=32)
    shares = rates(torch.nn.ModuleList([encoder, torch.nn.Linear(3, 3)]), 0.7)
    mine = {own: shares[p] for own, p in encoder.model.named_parameters()}
    assert mine == {own: pytest.approx(theirs[own]) for own in mine}
    assert len(set(mine.values())) > 4
    assert len(shares) == len(mine)


def step_of(folder, before):
    after = load_file(folder / "model" / "model.safetensors")
    return {name: after[name] - value for name, value in before.items()}


def test_one_step_moves_each_block_by_its_share(bert, pairs, tmp_path):
    torch.manual_seed(0)
    plain = encoders.text(bert)
    begun = {f"text.encoder.{k}": v.clone() for k, v in plain.state_dict().items() if v.is_floating_point()}
    steps = []
    for number, more in enumerate([{}, {"layer_decay": 0.5, "gradient_checkpointing": True}]):
        nearfar.fit("pairs", pairs, out=tmp_path / str(number), text_encoder=bert, **QUICK | SGD | more)
        steps.append(step_of(tmp_path / str(number), begun))
    place = {f"text.encoder.{own}": beit(own, 2) for own, _ in plain.named_parameters()}
    moved = {name for name, delta in steps[0].items() if delta.abs().max() > 1e-5}
    assert {place[name] for name in moved} == {0, 1, 2}
    for name in moved:
        share = steps[1][name].double().norm() / steps[0][name].double().norm()
        assert share == pytest.approx(0.5 ** (3 - place[name]), rel=2e-3), name


@pytest.mark.parametrize("optimiser", ["adamw", "lars", "lamb", "muon", "lion", "nadamw"])
def test_every_optimiser_takes_the_groups(optimiser):
    from nearfar.methods.optimisation import Optimisation

    torch.manual_seed(0)
    model = torch.nn.ModuleList([encoders.text("tiny", texts=TEXTS * 9, vocabulary=60, dropout=0.0),
                                 torch.nn.Linear(128, 4)])  # fmt: skip
    encoder: encoders.TextEncoder = model[0]
    o = Optimisation(optimiser, 0.01, layer_decay=0.5)
    made = o.make(o.groups(model.parameters(), rates(model, 0.5)))
    rest = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 0.5)
    model[1](encoder(encoder.prepare(TEXTS))).square().sum().backward()
    made.step()
    shares = {p: group["lr"] / 0.005 for group in made.param_groups for p in group["params"]}
    assert rest.get_last_lr()[0] == pytest.approx(0.005)
    assert shares[encoder.table.weight] == pytest.approx(0.125)
    assert shares[encoder.stack[0].qkv.weight] == pytest.approx(0.25)
    assert shares[encoder.stack[1].qkv.weight] == pytest.approx(0.5)
    assert shares[encoder.norm.weight] == shares[model[1].weight] == pytest.approx(1)
    assert all(p.isfinite().all() for p in model.parameters())


def test_frozen_stages_of_a_convolutional_network_rest_with_their_statistics(resnet, tmp_path):
    said = []
    nearfar.fit("simclr", "emoji", out=tmp_path / "run", encoder="test_resnet", weights=str(resnet), image_size=32,
                freeze_stages=2, say=said.append, **QUICK | SGD | {"steps": 2})  # fmt: skip
    before, after = load_file(resnet), load_file(tmp_path / "run" / "model" / "model.safetensors")
    changed = {k for k, v in before.items() if not torch.equal(v, after[f"image.encoder.model.{k}"])}
    assert {name.partition(".")[0] for name in changed} == {"layer3", "layer4"}
    assert any("running_mean" in name for name in changed)
    line = next(one for one in said if one.startswith("frozen"))
    many = sum(v.numel() for k, v in before.items() if k not in changed and not re.search("running|num_b", k))
    of = sum(v.numel() for k, v in before.items() if not re.search("running|num_b", k))
    assert line == (f"frozen: the embeddings and the first 2 of 4 stages of the image encoder 'test_resnet' "
                    f"({many:,} of {of:,} parameters)")  # fmt: skip


def test_frozen_blocks_of_a_transformer_rest_in_copies_too(bert):
    encoder = encoders.text(bert, dropout=0.5)
    freeze_stages(encoder, 1)
    copied = copy.deepcopy(encoder).train()
    trained = {name.split(".")[3] for name, p in encoder.named_parameters() if p.requires_grad and "layer." in name}
    assert trained == {"1"}
    layers = copied.model.encoder.layer
    assert not any(part.training for part in (copied.model.embeddings, layers[0], layers[0].output.dropout))
    assert layers[1].output.dropout.training
    assert copied.eval().train().model.encoder.layer[0].training is False
    with pytest.raises(InputError, match=r"--freeze-stages 3: the text encoder 'transformer' has 2 stages"):
        freeze_stages(encoder, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--freeze-stages", "1"], "--freeze-stages keeps the first part of a pretrained encoder; none is named"),
        (["--freeze-stages", "1", "--freeze", "--text-encoder", "{bert}"], "--freeze keeps these as they are"),
        (["--freeze-stages", "1", "--lora", "2", "--text-encoder", "{bert}"], "keeps all weights of the encoders"),
        (["--freeze-stages", "3", "--text-encoder", "{bert}"], "has 2 stages. Use 2 or less"),
        (["--layer-decay", "0.5"], "--layer-decay goes by the blocks of an encoder, and none has any (the text"),
        (["--layer-decay", "1.5"], "'layer_decay' must be a number in (0, 1]"),
    ],
)
def test_wrong_uses(words, message, bert, pairs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [word.format(bert=bert) for word in words]
    assert main(["fit", "pairs", str(pairs), "--steps", "2", *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
