"""BECLR: both terms against loops, the masks, the memory's life, the enhanced batch, the card's invariants."""

import math

import pytest
import torch

from nearfar.errors import InputError
from nearfar.memories import ClusteredMemory, balanced_labels, memory_rows
from nearfar.methods.batch import Facts
from nearfar.methods.fewshot.beclr import attraction, auto_clusters, auto_scale, masked, repulsion
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings


def views(n=5, d=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))


def cosine(a, b):
    return float((a @ b / (a.norm() * b.norm())).detach())


def test_attraction_equals_the_loop():
    p, t = views(), views(seed=1)
    expected = -sum(cosine(p[0][i], t[1][i]) + cosine(p[1][i], t[0][i]) for i in range(5)) / 10
    loss = attraction(p, t)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.backward()
    assert t[0].grad is None
    assert attraction(p, (5 * p[1], 0.1 * p[0])).item() == pytest.approx(-1)
    assert torch.autograd.gradcheck(lambda a, b: attraction((a, b), t), p)


def test_repulsion_equals_the_loop():
    z = views()
    u, n = torch.cat(z).detach(), 5
    anchors = [
        sum(math.exp(cosine(u[i], u[j]) / 2) for j in range(2 * n) if j % n != i % n) / (2 * n - 2)
        for i in range(2 * n)
    ]
    assert float(repulsion(z)) == pytest.approx(math.log(sum(anchors) / (2 * n)), abs=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: repulsion((a, b), temperature=0.5), z)
    order = torch.tensor([3, 1, 0, 4, 2])
    assert torch.allclose(repulsion((z[0][order], z[1][order])), repulsion(z))
    assert torch.allclose(repulsion((3 * z[0], z[1])), repulsion(z))


def test_repulsion_at_collapse_and_with_one_item():
    same = torch.ones(4, 3, dtype=torch.float64)
    assert float(repulsion((same, same), temperature=2.0)) == pytest.approx(0.5)
    one = torch.ones(1, 3, requires_grad=True)
    loss = repulsion((one, one))
    loss.backward()
    assert float(loss) == 0


def test_masked_patches_are_whole_and_of_the_share():
    images = torch.ones(50, 3, 32, 40)
    out = masked(images, 8, (0.05, 0.25), torch.Generator().manual_seed(0))
    cells = out.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4)[:, 0]
    assert bool(((cells == 0).all(-1) | (cells == 1).all(-1)).all())
    share = (cells[..., 0] == 0).float().mean((1, 2))
    assert float(share.min()) >= 0.0
    assert float(share.max()) <= 0.25
    assert float(share.std()) > 0.02
    assert (masked(images, 8, (0.0, 0.0), torch.Generator()) == 1).all()


def test_sizes_at_the_papers_scale():
    assert memory_rows(200, 40, 512) == 8193
    facts = Facts(samples=38400, items=38400, batch_size=256, steps=1000)
    assert auto_clusters(facts) == 200
    assert auto_scale(facts, 200) == 40


def filled(rows=8, clusters=3, dim=4, steps=6, **options):
    torch.manual_seed(0)
    memory = ClusteredMemory(**options)
    memory.setup(dim, clusters, memory_rows(clusters, 10, rows))
    centres = torch.eye(dim)[:clusters] * 4
    for step in range(steps):
        items = torch.arange(rows) + step * rows
        memory.update(centres[items % clusters] + 0.1 * torch.randn(rows, dim), items)
    return memory


def test_the_pointer_comes_round():
    torch.manual_seed(0)
    memory = ClusteredMemory()
    size = memory_rows(3, 10, 8)
    memory.setup(4, 3, size)
    assert size == 33
    seen = []
    for _ in range(math.ceil(size / 8)):
        seen.append((int(memory.pointer), bool(memory.ready)))
        memory.update(torch.randn(8, 4))
    assert [s[0] for s in seen] == [0, 8, 16, 24, 32]
    assert not any(ready for _, ready in seen)
    assert bool(memory.ready)
    assert int(memory.pointer) == 0


def test_assignment_is_balanced_and_near():
    torch.manual_seed(0)
    prototypes = torch.eye(4)
    rows = prototypes.repeat(5, 1) + 0.05 * torch.randn(20, 4)
    assert balanced_labels(rows, prototypes).tolist() == [0, 1, 2, 3] * 5
    far = balanced_labels(rows, prototypes, farthest=True)
    assert not (far == torch.arange(4).repeat(5)).any()


def test_neighbours_are_bank_rows_of_the_nearest_cluster():
    memory = filled()
    rows = torch.eye(4)[:3] * 2
    found = memory.neighbours(rows, 4)
    assert found.shape == (3, 4, 4)
    for c in range(3):
        for x in found[c]:
            at = (memory.bank == x).all(1).nonzero()
            assert len(at)
            assert (memory.labels[at[:, 0]] == memory.labels[memory.bank @ rows[c] > 7.5].mode().values).all()
    assert memory.purity(torch.arange(200) % 3) == pytest.approx(1.0)


def test_a_small_cluster_sends_the_search_to_the_whole_bank():
    memory = filled()
    memory.labels[:] = 0
    memory.labels[:2] = 1
    memory.prototypes = torch.eye(3, 4)
    row = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    best = torch.nn.functional.cosine_similarity(row, memory.bank).topk(3).indices
    assert torch.equal(memory.neighbours(row, 3)[0], memory.bank[best])


def test_the_released_codes_faults_are_a_choice():
    intended, official = filled(), filled(official=True)
    labels = torch.arange(200) % 3
    assert official.purity(labels) <= intended.purity(labels)
    assert official.neighbours(torch.eye(4)[:2], 3).shape == (2, 3, 4)


def within_clusters(memory):
    """The sum of squared distances of the unit vectors to the centre of their cluster."""
    points = torch.nn.functional.normalize(memory.bank, dim=1)
    return float((points - memory.prototypes[memory.labels]).square().sum())


def test_one_beginning_clusters_about_as_well_as_ten():
    generator = torch.Generator().manual_seed(0)
    sums = {}
    for restarts in (1, 10):
        memory = ClusteredMemory(restarts=restarts)
        memory.setup(16, 30, 900)
        centres = torch.randn(60, 16, generator=generator.manual_seed(0))
        memory.bank = centres.repeat(15, 1) + 0.5 * torch.randn(900, 16, generator=generator)
        memory.cluster(seed=3)
        sums[restarts] = within_clusters(memory)
    assert sums[10] <= sums[1] < 1.03 * sums[10]


def test_the_paper_begins_ten_times(emoji_few):
    given = {"clusters": 4, "scale": 6, "neighbours": 2}
    for preset, restarts in (("auto", 1), ("paper", 10)):
        settings = TrainSettings(batch_size=8, steps=10, preset=preset)
        assert building.prepare("beclr", emoji_few, settings, given).method.memory("targets").restarts == restarts


def test_bad_memories():
    with pytest.raises(InputError, match="restarts"):
        ClusteredMemory(restarts=0)
    with pytest.raises(InputError, match="cannot hold"):
        ClusteredMemory().setup(4, 10, 5)
    with pytest.raises(InputError, match="inertia"):
        ClusteredMemory(inertia=1.0)


OPTIONS = {"clusters": 4, "scale": 6, "neighbours": 2, "memory_start": 0.4, "projector": 32, "dim": 16}


def prepared(data, **options):
    settings = TrainSettings(batch_size=8, steps=10)
    return building.prepare("beclr", data, settings, OPTIONS | options).method, settings


def made(method, loader, step):
    batch = loader.at(step)
    batch.views = method.make_views(batch)
    embedded = method.encode(batch)
    with torch.no_grad():
        embedded |= method.targets(batch)
    return embedded, batch


def test_the_batch_is_enhanced_once_the_memory_is_in_use(emoji_few):
    ready = building.prepare("beclr", emoji_few, TrainSettings(batch_size=8, steps=10), OPTIONS)
    method, loader = ready.method, ready.loader
    for step in range(8):
        embedded, batch = made(method, loader, step)
        method.loss(embedded, batch)
        a, b = method.enhanced("projected", embedded["projected"], batch)
        memory = method.memories["projected"]
        grown = step >= 4 and bool(memory.ready)
        assert len(a) == len(b) == (24 if grown else 8)
    assert grown
    assert torch.allclose(a[:8].norm(dim=1), torch.ones(8), atol=1e-5)
    assert all((memory.bank == row).all(1).any() for row in a[8:])
    assert a[:8].requires_grad
    assert torch.equal(a[8:10], memory.neighbours(embedded["projected"][0], 2)[0])  # sample-major


def test_without_neighbours_it_is_the_plain_two_view_loss(emoji_few):
    ready = building.prepare("beclr", emoji_few, TrainSettings(batch_size=8, steps=10), OPTIONS | {"neighbours": 0})
    embedded, batch = made(ready.method, ready.loader, 9)
    loss = ready.method.loss(embedded, batch)
    p, z, t = (tuple(embedded[k]) for k in ("predicted", "projected", "targets"))
    assert torch.allclose(loss.total, attraction(p, t) + 0.1 * repulsion(z))


def test_teacher_follows_and_learns_nothing_by_gradient(emoji_few, tmp_path):
    run = fit("beclr", emoji_few, out=tmp_path / "run", steps=6, batch_size=8, val_every=0, progress=False, **OPTIONS)
    assert 0 <= run.scores["test"]["primary"] <= 1
    curve = (tmp_path / "run" / "curve.jsonl").read_text()
    assert "attraction" in curve
    assert "clusters_used" in curve


@pytest.mark.parametrize(
    ("given", "says"), [({"mask_ratio": (0.5, 0.1)}, "two shares"), ({"temperature": 0.0}, "temperature")]
)
def test_wrong_options(given, says, emoji_few):
    with pytest.raises(InputError, match=says):
        prepared(emoji_few, **given)
