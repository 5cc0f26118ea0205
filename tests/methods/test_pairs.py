"""Pairs and ALIGN: hard negatives, masked duplicates, the learned temperature, frozen encoders."""

import pytest
import torch

from nearfar.errors import InputError
from nearfar.losses import align, info_nce
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.settings import TrainSettings


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    lines = ["question,answer,wrong"] + [
        f"what is number {i},it is the number {i} itself,it is not {i} at all" for i in range(60)
    ]
    path.write_text("\n".join(lines) + "\n")
    return open_data(path, roles={"text": "question", "text_b": "answer", "negative": ["wrong"]})


def embed(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    return made.method.encode(batch), batch


def test_hard_negatives_join_the_candidates_of_one_direction(questions):
    made = building.prepare("pairs", questions, TrainSettings(batch_size=8, steps=4), {})
    made.method.eval()
    embedded, batch = embed(made)
    loss = made.method.loss(embedded, batch).total
    a, b, hard = embedded["a"], embedded["b"], embedded["negative"][0]
    forth = info_nce(a, torch.cat([b, hard]), temperature=0.07)
    back = info_nce(b, a, temperature=0.07)
    assert torch.allclose(loss, (forth + back) / 2, atol=1e-6)
    assert loss > info_nce(a, b, temperature=0.07, symmetric=True)


def test_duplicates_are_no_negatives(questions):
    made = building.prepare("pairs", questions, TrainSettings(batch_size=8, steps=4), {"symmetric": False})
    made.method.eval()
    embedded, batch = embed(made)
    embedded.pop("negative")
    plain = made.method.loss(embedded, batch).total
    batch.content["text_b"][:] = 5  # all answers are one answer: nothing is left to push away
    assert float(made.method.loss(embedded, batch).total.detach()) == pytest.approx(0, abs=1e-6)
    made.method.mask_duplicates = False
    assert torch.allclose(made.method.loss(embedded, batch).total, plain)


def test_align_is_the_sum_of_both_directions(emoji_few):
    made = building.prepare(
        "align", emoji_few, TrainSettings(batch_size=8, steps=4, by="columns"), {"mask_duplicates": False}
    )
    embedded, batch = embed(made)
    loss = made.method.loss(embedded, batch).total
    expected = align(embedded["a"], embedded["b"], temperature=0.1, smoothing=0.1)
    assert torch.allclose(loss, expected, atol=1e-5)
    loss.backward()
    assert made.method.tau.log_tau.grad.abs() > 0
    assert made.resolved["temperature"] == 0.1
    with torch.no_grad():
        made.method.tau.log_tau.fill_(-50)
    made.method.tau.project()
    assert float(made.method.tau().detach()) == pytest.approx(0.01)


def test_a_frozen_encoder_is_computed_once_and_only_the_head_learns(emoji_few, tmp_path):
    settings = TrainSettings(batch_size=8, steps=4, freeze=True)
    made = building.prepare("pairs", emoji_few, settings, {}, cache=tmp_path)
    assert len(list(tmp_path.glob("features-*.npy"))) == 1
    trained = {n for n, p in made.method.named_parameters() if p.requires_grad}
    assert trained == {"tower_a.head.weight", "tower_a.head.bias", "tower_b.head.weight", "tower_b.head.bias"} & set(
        dict(made.method.named_parameters())
    ) - {"tau.log_tau"}
    batch = made.loader.at(0)
    assert batch.inputs["image"].values.dtype == torch.float32
    assert batch.inputs["image"].values.shape == (16, 256)
    embedded, batch = embed(made)
    assert torch.isfinite(made.method.loss(embedded, batch).total)


@pytest.mark.parametrize("options", [{}, {"views": {"name": "members"}}, {"views": {"name": "members", "k": 1}}])
def test_every_group_of_the_batch_is_contrasted(options, emoji_few):
    made = building.prepare("pairs", emoji_few, TrainSettings(batch_size=8, steps=4), options)
    embedded, _ = embed(made)
    assert [z.shape[0] for z in embedded["members"]] == [8, 8]


def test_views_of_several_members_need_groups(questions, emoji_few):
    settings = TrainSettings(batch_size=8, steps=4, by="columns")
    with pytest.raises(InputError, match="made of columns"):
        building.prepare("pairs", emoji_few, settings, {"views": {"name": "members", "k": 2}})
