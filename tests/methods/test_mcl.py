"""MCL: joint labels, grouped losses, batches of one group, stages that resume and are kept."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.testing import assert_close

import nearfar
from nearfar.encoders import Joined, image
from nearfar.errors import InputError
from nearfar.losses import clip, nt_xent
from nearfar.losses.rows import info_nce_rows
from nearfar.methods.batch import Facts
from nearfar.methods.contrast.multistage import auto_clusters, concatenated, joint_labels
from nearfar.methods.contrast.shared import other_groups
from nearfar.similarity import ExtraCandidates, all_views, both_ways
from nearfar.training import building, callbacks, showing
from nearfar.training.engine import fit
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings


def within(p):
    """As training hides the other groups (`form mask`)."""

    def extra_candidates(anchors):
        return ExtraCandidates(excluded=other_groups(p, anchors))

    return extra_candidates


def grouped_clip(a, b, p, *, temperature):
    layout = both_ways(a, b, temperature=temperature, extra_candidates=within(p), extra_candidates_back=within(p))
    return layout.loss(info_nce_rows)


def grouped_nt_xent(a, b, p, *, temperature):
    return all_views([a, b], temperature=temperature, extra_candidates=within(p)).loss(info_nce_rows)


def z(n=8, seed=0):
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
def test_joint_labels_split_and_remember(k, stages, seed):
    c = np.random.default_rng(seed).integers(k, size=(stages, 20))
    p = joint_labels(c, k)
    assert np.array_equal(p[:, None] == p[None], (c[:, :, None] == c[:, None, :]).all(0))
    for t in range(stages):
        assert np.array_equal(p // k ** (stages - 1 - t) % k, c[t])
    coarse = joint_labels(c[:-1], k) if stages > 1 else np.zeros(20)
    assert len({*zip(p.tolist(), coarse.tolist(), strict=True)}) == len({*p.tolist()}), "stages only split groups"
    assert np.array_equal(joint_labels(c, k, "last"), c[-1] * sum(k**t for t in range(stages)))


def test_joint_labels_refuse_what_cannot_be_counted():
    with pytest.raises(InputError, match="all or last"):
        joint_labels(np.zeros((1, 2), int), 3, "first")
    with pytest.raises(InputError, match="can be counted"):
        joint_labels(np.zeros((40, 2), int), 10)


def test_the_mask_form_in_a_loop():
    a, b, p = z(), z(seed=1), torch.tensor([0, 0, 1, 1, 1, 2, 0, 2])
    s = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.3
    rows = [s[i, p == p[i]].logsumexp(0) - s[i, i] for i in range(8)]
    columns = [s[p == p[j], j].logsumexp(0) - s[j, j] for j in range(8)]
    assert_close(grouped_clip(a, b, p, temperature=0.3), (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2)
    renamed = torch.tensor([7, 3, 5])[p]
    assert_close(grouped_clip(a, b, renamed, temperature=0.3), grouped_clip(a, b, p, temperature=0.3))


@pytest.mark.parametrize(("grouped", "plain"), [(grouped_clip, clip), (grouped_nt_xent, nt_xent)])
def test_one_group_is_the_host_and_more_are_below_it(grouped, plain):
    a, b, one = z(), z(seed=1), torch.zeros(8, dtype=torch.long)
    host = plain(a, b, temperature=0.3)
    assert_close(grouped(a, b, one, temperature=0.3), host)
    p = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    assert grouped(a, b, p, temperature=0.3) < host
    parts = [float(plain(a[p == g], b[p == g], temperature=0.3)) * int((p == g).sum()) / 8 for g in (0, 1)]
    assert_close(float(grouped(a, b, p, temperature=0.3)), sum(parts))
    assert grouped_clip(a, b, torch.arange(8), temperature=0.3) == 0, "alone in a group: nothing to tell apart"


def test_gradients_of_the_grouped_losses():
    p = torch.tensor([0, 0, 1, 1])
    for loss in (grouped_clip, grouped_nt_xent):
        inputs = (z(4).requires_grad_(), z(4, 1).requires_grad_())
        assert torch.autograd.gradcheck(lambda a, b, f=loss: f(a, b, p, temperature=0.5), inputs)


def test_the_concatenation_is_normalised_once():
    outputs = [z(), 3 * z(seed=1)]
    made = concatenated(outputs)
    assert made.shape == (8, 8)
    assert_close(made.norm(dim=1), torch.ones(8, dtype=torch.float64))
    assert_close(concatenated([5 * x for x in outputs]), made)
    assert_close(concatenated(outputs[:1]), torch.nn.functional.normalize(outputs[0], dim=1))
    without = concatenated([outputs[0], 1e-9 * outputs[1]])[:, :4]
    assert_close(without, torch.nn.functional.normalize(outputs[0], dim=1), atol=1e-8, rtol=0)
    s, norms = made @ made.T, [x.norm(dim=1) for x in outputs]
    weight = [n[:, None] * n for n in norms]
    whole = (norms[0] ** 2 + norms[1] ** 2).sqrt()
    cosines = [torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(x, dim=1).T for x in outputs]
    assert_close(s, (weight[0] * cosines[0] + weight[1] * cosines[1]) / (whole[:, None] * whole))


STEPS = 9
OPTIONS = {"stages": 2, "clusters": 2, "projector": 32, "dim": 16}


def run(data, out, **more):
    settings = {"steps": STEPS, "batch_size": 16, "val_every": 4, "save_every": 2} | more
    return fit("mcl", data, out=out, progress=False, **OPTIONS, **settings)


class Stop(RuntimeError):
    pass


@pytest.mark.parametrize("form", ["batch", "mask"])
def test_a_run_stopped_inside_a_stage_resumes_to_the_same_numbers(form, emoji_few, tmp_path, monkeypatch):
    options = {"form": form, "negatives": {"name": "mixing", "size": 32, "start": 0.3}}
    whole = run(emoji_few, tmp_path / "whole", **options)
    save = callbacks.Checkpoint.on_train_batch_end

    def stop_at(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == 5:
            raise Stop

    monkeypatch.setattr(callbacks.Checkpoint, "on_train_batch_end", stop_at)
    with pytest.raises(Stop):
        run(emoji_few, tmp_path / "parts", **options)
    monkeypatch.undo()
    again = run(emoji_few, tmp_path / "parts", resume=True, **options)
    a, b = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    curves = [[json.loads(x) for x in (r.path / "curve.jsonl").read_text().splitlines()] for r in (whole, again)]
    told = [[(c["step"], c["loss"], c["stage"]) for c in lines] for lines in curves]
    assert told[0] == told[1]
    assert [c["stage"] for c in curves[0]] == [0] * 3 + [1] * 3 + [2] * 3
    model = nearfar.load(tmp_path / "whole" / "model")
    vectors = model.embed(list(emoji_few.images("image", 32, np.arange(3)).transpose(0, 2, 3, 1)))
    assert vectors.shape == (3, 3 * 256)
    assert_close(torch.from_numpy(vectors).norm(dim=1), torch.ones(3))
    assert model.verify() < 1e-4
    embed, rows = ModelEmbedder(model, emoji_few), emoji_few.splits["test"][:30]
    read = showing.stage_readouts(embed, emoji_few, "image", rows)
    assert {d.name for d in read} >= {"read off linearly: category", "read off linearly: style"}
    assert all("stages together" in d.advice for d in read)


def stepped(data, count, **options):
    """A method taken through its steps by hand: batches, and the states of the encoder at the ends of the stages."""
    settings = TrainSettings(batch_size=16, steps=STEPS, warmup=0)
    made = building.prepare("mcl", data, settings, OPTIONS | options)
    told, states, batches, optimiser = [], [], [], torch.optim.SGD(made.method.tower.parameters(), 0.1)
    made.method.survey.say = told.append
    for batch in made.loader:
        if batch.step in made.method.stage_starts():
            states.append({k: v.clone() for k, v in made.method.tower.encoder.state_dict().items()})
        batches.append(batch)
        batch.views = made.method.make_views(batch)
        embedded = made.method.encode(batch)
        optimiser.zero_grad()
        made.method.loss(embedded, batch).total.backward()
        optimiser.step()
        if batch.step == count - 1:
            break
    return made, batches, states, told


def test_stages_are_kept_begin_anew_and_hold_one_group_a_batch(emoji_few):
    made, batches, states, told = stepped(emoji_few, STEPS)
    method = made.method
    labels = method.negative_groups()
    place = {int(r): k for k, r in enumerate(made.rows)}
    assert batches[0].negative_groups is None
    assert len(told) == 2
    for batch in batches[6:]:
        assert {int(labels[place[int(r)]]) for r in batch.rows} == {int(batch.negative_groups[0])}
    for begin in states[1:]:
        assert not torch.equal(begin["out.weight"], states[0]["out.weight"]), "fresh weights, not those of stage 0"
    after = [stepped(emoji_few, n)[0].method.tower.encoder.state_dict() for n in (3, 6)]
    for (kept,), then in zip(method.past, after, strict=True):
        kept = kept.encoder
        assert all(torch.equal(x, then[k]) for k, x in kept.state_dict().items()), "bit-identical afterwards"
    assert method.towers()["image"].encoder.dim == 3 * 256
    assert all(not p.requires_grad for p in method.past.parameters())


def test_continued_weights_go_on(emoji_few):
    made, _, states, _ = stepped(emoji_few, 4, stage_weights="continue")
    kept = made.method.past[0][0].encoder.state_dict()
    assert all(torch.equal(states[1][k], kept[k]) for k in kept)


def test_one_cluster_is_plain_training(emoji_few):
    made, batches, _, _ = stepped(emoji_few, 5, clusters=1)
    assert set(made.method.negative_groups().tolist()) == {0}
    assert len({int(r) for b in batches[3:5] for r in b.rows}) == 32


def test_each_stage_has_its_own_schedule(emoji_few):
    settings = TrainSettings(batch_size=16, steps=30, warmup=3)
    method = building.prepare("mcl", emoji_few, settings, OPTIONS).method
    rates = [method.rate(k) for k in range(31)]
    assert rates[:10] == rates[10:20] == rates[20:30]
    assert rates[0] < rates[1] > rates[9]


def test_the_optimiser_forgets_at_a_stage(emoji_few, tmp_path, monkeypatch):
    seen = {}
    begin = nearfar.methods.get("mcl").begin_stage

    def watched(self, stage):
        begin(self, stage)
        seen[stage] = self.trainer.optimizers[0].state
        assert len(seen[stage]) > 0

    monkeypatch.setattr(nearfar.methods.get("mcl"), "begin_stage", watched)
    steps = callbacks.Checkpoint.on_train_batch_end
    ages = []

    def age(self, trainer, *rest):
        ages.append(max(int(s["step"]) for s in trainer.optimizers[0].state.values()))
        steps(self, trainer, *rest)

    monkeypatch.setattr(callbacks.Checkpoint, "on_train_batch_end", age)
    run(emoji_few, tmp_path / "run", val_every=0)
    assert ages == [1, 2, 3] * 3


def test_wrong_options_are_told(emoji_few):
    for options in ({"stages": 0}, {"clusters": 0}):
        with pytest.raises(InputError):
            building.prepare("mcl", emoji_few, TrainSettings(batch_size=16, steps=9), options)
    with pytest.raises(InputError, match="too few for 3 stages"):
        building.prepare("mcl", emoji_few, TrainSettings(batch_size=16, steps=2), {"stages": 2})
    with pytest.raises(InputError, match="frozen"):
        building.prepare("mcl", emoji_few, TrainSettings(batch_size=16, steps=9, freeze=True), {})


def test_automatic_clusters_leave_full_batches():
    assert auto_clusters(Facts(1_000_000, 1_000_000, 256, 1000), 3, True) == 10
    assert auto_clusters(Facts(1200, 1200, 32, 1000), 1, True) == 10
    assert auto_clusters(Facts(1200, 1200, 32, 1000), 2, True) == 4
    assert auto_clusters(Facts(100, 100, 32, 1000), 1, True) == 2
    assert auto_clusters(Facts(1200, 1200, 32, 1000), 1, False) == 8


def test_joined_encoders_are_their_parts_side_by_side():
    parts = [image("small", dim=8).eval(), image("small", dim=4).eval()]
    joined = Joined(parts)
    x = torch.rand(3, 3, 32, 32)
    assert torch.equal(joined(x), torch.cat([p(x) for p in parts], 1))
    assert (joined.dim, joined.widths, joined.size) == (12, [8, 4], 32)
    again = nearfar.encoders.from_config(json.loads(json.dumps(joined.config())))
    again.load_state_dict(joined.state_dict())
    assert torch.equal(again.eval()(x), joined(x))
    with pytest.raises(InputError, match="one modality"):
        Joined([])
