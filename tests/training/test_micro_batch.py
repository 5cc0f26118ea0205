"""A large batch in micro-batches: the gradients of one pass over the same parts, dropout included, one step."""

import json

import pytest
import torch

from nearfar.encoders import Features
from nearfar.methods.micro_batches import Cached, random_state, set_random_state
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings

CASES = {
    "contriever": {"momentum": None, "negatives": None},
    "align": {},
    "swav": {"prototypes": 8},
    "simclr": {},
    "cacr": {"form": "momentum", "positives": 1},
    "cwcl": {},
    "negclip": {"images": 2},
    "clip-rocket": {"hidden": 32},
    "whitenedcse": {},
    "debcse": {},
    "cot": {"dim": 16},
}


def doubled(x):
    return Features(x.values.double()) if isinstance(x, Features) else x.double() if torch.is_tensor(x) else x


def loss_of(method, batch, embedded):
    method.before_targets(batch)
    with torch.no_grad():
        embedded = embedded | method.targets(batch)
    return method.loss(embedded, batch).total


@pytest.mark.parametrize("slug", CASES)
def test_gradients_are_exact(slug, emoji_few, shapes_few):
    columns = slug in ("align", "cwcl", "negclip", "clip-rocket")
    settings = TrainSettings(batch_size=10, steps=4, by="columns" if columns else "auto")
    made = building.prepare(slug, shapes_few if slug == "cot" else emoji_few, settings, CASES[slug])
    method = made.method.double().train()
    batch = made.loader.at(0)
    batch.views = {role: [doubled(x) for x in views] for role, views in method.make_views(batch).items()}
    torch.manual_seed(0)
    cached = Cached(method, batch, 4)  # parts of 3, 4 and 3 items
    assert sorted(len(p) for p in cached.parts) == [3, 3, 4]
    state, buffers = random_state(), {k: v.clone() for k, v in method.named_buffers()}
    loss_of(method, batch, cached.embedded()).backward()
    cached.backward()
    found = {k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}

    method.zero_grad()
    set_random_state(state)
    for k, v in method.named_buffers():
        v.copy_(buffers[k])
    outs = [method.encode(p) for p in cached.parts]  # the same parts, kept with their graphs
    whole = {
        name: [torch.cat(x) for x in zip(*(o[name] for o in outs), strict=True)]
        if isinstance(outs[0][name], list)
        else torch.cat([o[name] for o in outs])
        for name in outs[0]
    }
    loss_of(method, batch, whole).backward()
    expected = {k: p.grad for k, p in method.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for k, g in expected.items():
        assert torch.allclose(found[k], g, rtol=1e-9, atol=1e-12), k


def test_an_encoder_without_batch_norm_or_dropout_learns_the_same(emoji_few, tmp_path):
    """Through the whole engine: the curve with micro-batches equals the plain one to float tolerance."""
    losses = []
    for micro in (None, 6):
        run = engine.fit(
            "pairs",
            emoji_few,
            out=tmp_path / str(micro),
            steps=5,
            batch_size=16,
            micro_batch=micro,
            freeze=True,
            val_every=0,
            progress=False,
        )
        losses.append([json.loads(line)["loss"] for line in (run.path / "curve.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
