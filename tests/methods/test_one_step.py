"""Steps of each method, written naively from its paper's card, give the parameters that training gives.

Views are given; loss, teacher, memories, frozen parts, optimiser and schedule are loops and dense matrices.
"""

import copy
import math
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, normalize

from nearfar.clustering import k_means
from nearfar.encoders import Tokens, frame
from nearfar.encoders.histories import Histories
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings
from tests.losses import reference
from tests.small import SMALL

LR, STEPS, RUN, WARMUP = 0.05, 3, 8, 1


def unit(x):
    return normalize(x, dim=1, eps=1e-12)


def nt_xent(z: list, tau: float, drop_positive: bool = False, weight: Any = None):
    """Over the rows of all views; the positive of a row is its other view."""
    n, u = len(z[0]), torch.cat([unit(v) for v in z])
    rows = []
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        s = (u @ u[i]) / tau
        keep = [j for j in range(2 * n) if j != i and not (drop_positive and j == positive)]
        w = 1.0 if weight is None else weight[i % n]
        rows.append(torch.logsumexp(s[keep], 0) - w * s[positive])
    return torch.stack(rows).mean()


class Naive:
    """The state beside the parameters: a teacher, and what a method remembers. run, warmup: steps of its schedule."""

    run, warmup = RUN, WARMUP

    def __init__(self, method, made):
        self.method, self.made, self.memory = method, made, {}

    def place(self, step):
        """The step within its stage, and steps and warm-up of that stage."""
        return step, self.run, self.warmup

    def follow(self, teacher, student, m):
        with torch.no_grad():
            for a, b in zip(teacher.parameters(), student.parameters(), strict=True):
                a.copy_(m * a + (1 - m) * b)

    def views(self, batch):
        made = self.method.make_views(batch)
        return made

    def enqueue(self, keys):
        queue, at = self.method.negatives.keys, self.memory.get("at", 0)
        for row in keys.detach():
            queue[at % len(queue)] = row
            at += 1
        self.memory["at"] = at


class SimCLR(Naive):
    """Both views pass the network as one batch, as its batch norm sees them."""

    def embedded(self, batch):
        a, b = self.views(batch)["image"]
        return list(self.method.tower(torch.cat([a, b])).chunk(2))

    def loss(self, batch, step):
        return nt_xent(self.embedded(batch), 0.1)


class MCL(SimCLR):
    """The first of two stages: a run of its own of 4 steps, with its share of warm-up, rounded to none."""

    run, warmup = 4, 0


class DCLW(SimCLR):
    constant = True

    def loss(self, batch, step):
        z = self.embedded(batch)
        closeness = (unit(z[0]) * unit(z[1])).sum(1) / 0.5
        closeness = closeness.detach() if self.constant else closeness
        w = 2 - closeness.exp() / closeness.exp().mean()
        return nt_xent(z, 0.1, drop_positive=True, weight=w)


class DCLWDifferentiated(DCLW):
    constant = False


class Hard(SimCLR):
    """The share alpha of each direction's cross-view negatives, thresholds constant."""

    def loss(self, batch, step):
        a, b = (unit(v) for v in self.embedded(batch))
        rows = []
        for query, key in ((a, b), (b, a)):
            for i in range(len(query)):
                s = key @ query[i]
                others = [j for j in range(len(key)) if j != i]
                m = max(1, math.floor(0.3 * len(others) + 0.5))
                limit = sorted((float(s[j].detach()) for j in others), reverse=True)[m - 1]
                keep = [i, *(j for j in others if float(s[j].detach()) >= limit)]
                rows.append(torch.logsumexp(s[keep] / 0.3, 0) - s[i] / 0.3)
        return torch.stack(rows).mean()


class MoCHi(Naive):
    """Queue of past keys, mixtures of the hardest, one direction."""

    tau, m = 0.2, 0.9

    def loss(self, batch, step):
        a, b = self.views(batch)["image"]
        q = unit(self.method.tower(torch.cat([a, b])).chunk(2)[0])
        self.follow(self.method.teacher.module, self.method.tower, self.m)
        with torch.no_grad():
            raw = self.method.teacher.module(torch.cat([a, b])).chunk(2)[1]
        queue = unit(self.method.negatives.keys.clone())
        made = self.mixtures(q.detach(), queue, batch)
        rows = []
        for i in range(len(q)):
            candidates = torch.cat([unit(raw)[i : i + 1], queue, made[i]])
            rows.append(cross_entropy((candidates @ q[i])[None] / self.tau, torch.zeros(1, dtype=torch.long)))
        self.memory["keys"] = raw
        return torch.stack(rows).mean()

    def mixtures(self, q, queue, batch):
        part = self.method.negatives
        n, s, s_query = part.counts
        draw = self.method.items(batch).generator()
        alpha = torch.rand((len(q), s), generator=draw)
        beta = torch.rand((len(q), s_query), generator=draw) / 2
        pairs = (torch.rand((len(q), s, 2), generator=draw) * n).long().clamp(max=n - 1)
        single = (torch.rand((len(q), s_query), generator=draw) * n).long().clamp(max=n - 1)
        found = []
        for i in range(len(q)):
            hard = queue[(queue @ q[i]).argsort(descending=True)[:n]]
            h = [alpha[i, m] * hard[pairs[i, m, 0]] + (1 - alpha[i, m]) * hard[pairs[i, m, 1]] for m in range(s)]
            h += [beta[i, m] * q[i] + (1 - beta[i, m]) * hard[single[i, m]] for m in range(s_query)]
            found.append(unit(torch.stack(h)))
        return found

    def after(self, batch, step):
        self.enqueue(self.memory["keys"])


class Swapped(Naive):
    """Two big crops and two small ones through one head; prototypes frozen in the first step; decay of everything."""

    def loss(self, batch, step):
        crops = self.views(batch)["image"]
        with torch.no_grad():
            w = self.method.centres.weight
            w.copy_(unit(w))
        big = self.method.tower.encoder(torch.cat(crops[:2]))
        small = self.method.tower.encoder(torch.cat(crops[2:]))
        z = unit(self.method.tower.head(torch.cat([big, small]))).chunk(4)
        scores = [v @ self.method.centres.weight.T for v in z]
        terms = []
        for c in range(2):
            code = self.code(scores[c].detach())
            terms += [-(code * log_softmax(scores[v] / 0.1, 1)).sum(1).mean() for v in range(4) if v != c]
        return torch.stack(terms).mean()

    def code(self, o):
        q = (o.T / 0.05).exp()
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / q.shape[0]
            q = q / q.sum(0, keepdim=True) / q.shape[1]
        return (q * q.shape[1]).T

    def before_step(self, step):
        if step < 1:
            self.method.centres.weight.grad = None


class CACR(Naive):
    """Form A with K = 2: three views, weights in the gradient."""

    def loss(self, batch, step):
        views = self.views(batch)["image"]
        z = [unit(v) for v in self.method.tower(torch.cat(views)).chunk(3)]
        pull, push = [], []
        for a in range(3):
            for i in range(len(z[0])):
                c = torch.stack([(z[a][i] - z[b][i]).square().sum() for b in range(3) if b != a])
                pull.append((torch.softmax(1.0 * c, 0) * c).sum())
        for a in range(3):
            for b in range(a + 1, 3):
                for i in range(len(z[0])):
                    d = torch.stack([(z[a][i] - z[b][j]).square().sum() for j in range(len(z[0])) if j != i])
                    push.append(-(torch.softmax(-2.0 * d, 0) * d).sum())
        return torch.stack(pull).mean() + torch.stack(push).mean()


class CACRQueue(Naive):
    """Form B: attraction to the teacher's keys of the other views, one softmax over the queue and the other queries."""

    def loss(self, batch, step):
        views = torch.cat(self.views(batch)["image"])
        q = [unit(v) for v in self.method.tower(views).chunk(3)]
        self.follow(self.method.teacher.module, self.method.tower, 0.9)
        with torch.no_grad():
            raw = self.method.teacher.module(views).chunk(3)
        k, queue, terms = [unit(v) for v in raw], unit(self.method.negatives.keys.clone()), []
        for a in range(3):
            for i in range(len(q[a])):
                c = torch.stack([(q[a][i] - k[b][i]).square().sum() for b in range(3) if b != a])
                pull = (torch.softmax(c.detach(), 0) * c).sum()
                past = (queue - q[a][i]).square().sum(1)
                here = torch.stack([(q[a][i] - q[a][j]).square().sum() for j in range(len(q[a])) if j != i])
                v = torch.softmax(-2.0 * torch.cat([past.detach(), here]), 0)
                terms.append(pull - (v * torch.cat([past, here])).sum())
        self.memory["keys"] = raw[-1]
        return torch.stack(terms).mean()

    def after(self, batch, step):
        self.enqueue(self.memory["keys"])


class CACRTargets(Naive):
    """Form C with two views: MoCo-v3's loss, halved; m by cosine to 1."""

    def loss(self, batch, step):
        views = torch.cat(self.views(batch)["image"])
        q = [unit(self.method.predictor(v)) for v in self.method.tower(views).chunk(2)]
        m = 1 - (1 - 0.9) * (math.cos(math.pi * step / self.made.loader.steps) + 1) / 2
        self.follow(self.method.teacher.module, self.method.tower, m)
        with torch.no_grad():
            k = [unit(v) for v in self.method.teacher.module(views).chunk(2)]
        target = torch.arange(len(q[0]))
        return sum(2 * 1.0 * cross_entropy(q[1 - t] @ k[t].T / 1.0, target) for t in range(2)) / 2


class NNCLR(Naive):
    """Nearest past embedding as the positive once the queue is full; both directions, anchors on both sides."""

    def loss(self, batch, step):
        z = self.method.tower(torch.cat(self.views(batch)["image"])).chunk(2)
        p = [unit(self.method.predictor(v)) for v in z]
        full = self.memory.get("count", 0) >= len(self.method.support.keys)
        terms, target = [], torch.arange(len(z[0]))
        for v, w in ((0, 1), (1, 0)):
            near = unit(z[v]).detach()
            if full:
                support = unit(self.method.support.keys.clone())
                near = support[(near @ support.T).argmax(1)]
            terms += [self.rows(near @ p[w].T / 0.1, target), self.rows(p[w] @ near.T / 0.1, target)]
        self.memory["new"] = z[0]
        return sum(terms) / 4

    def rows(self, s, target):
        return cross_entropy(s, target)

    def after(self, batch, step):
        queue, count = self.method.support.keys, self.memory.get("count", 0)
        for row in self.memory["new"].detach():
            queue[count % len(queue)] = row
            count += 1
        self.memory["count"] = count


class NNCLRDecoupled(NNCLR):
    """The positive is the neighbour, and leaves the denominator."""

    def rows(self, s, target):
        others = s.masked_fill(torch.eye(len(s), dtype=torch.bool), -math.inf)
        return (torch.logsumexp(others, 1) - s.diagonal()).mean()


class PixPro(Naive):
    def loss(self, batch, step):
        views = self.method.make_views(batch)
        crops, places = list(views["image"]), list(views["places"])
        made = [self.method.student(x)[0] for x in crops]
        y = [self.propagated(x) for x in made]
        m = 1 - (1 - 0.99) * (math.cos(math.pi * step / self.made.loader.steps) + 1) / 2
        self.follow(self.method.teacher.module, self.method.student, m)
        with torch.no_grad():
            target = [self.method.teacher.module(x)[0] for x in crops]
        total = 0.0
        for a, b in ((0, 1), (1, 0)):
            means = []
            for n in range(len(crops[0])):
                held = self.positives(places[a][n], places[b][n], *y[a].shape[-2:])
                cosine = unit(y[a][n].flatten(1).T) @ unit(target[b][n].flatten(1).T).T
                means.append((held * cosine).sum() / (held.sum() + 1e-6))
            total = total - 2 * torch.stack(means).mean()
        return total

    def propagated(self, x):
        g = normalize(self.method.propagation.transform(x), dim=1, eps=1e-12)
        out = []
        for one, t in zip(x, g, strict=True):
            u = unit(one.flatten(1).T)
            s = (u @ u.T).clamp(min=0) ** 2
            out.append((s @ t.flatten(1).T).T.reshape(one.shape))
        return torch.stack(out)

    def positives(self, a, b, height, width):
        def centres(box):
            w, h = (box[2] - box[0]) / width, (box[3] - box[1]) / height
            at = [(box[0] + (s + 0.5) * w, box[1] + (r + 0.5) * h) for r in range(height) for s in range(width)]
            return torch.tensor([[float(x), float(y)] for x, y in at]), float((w**2 + h**2).sqrt())

        (p, d), (q, e) = centres(a), centres(b)
        return (p[:, None] - q[None]).square().sum(2).sqrt() / max(d, e) < 0.7


class BECLR(Naive):
    """Before the memory is used: cosine to the teacher, spread inside one logarithm; the teacher moves last."""

    def loss(self, batch, step):
        views = torch.cat(self.views(batch)["image"])
        z = self.method.tower(views).chunk(2)
        p = [unit(self.method.predictor(v)) for v in z]
        with torch.no_grad():
            t = [unit(v) for v in self.method.teacher.module(views).chunk(2)]
        near = -((p[0] * t[1]).sum(1).mean() + (p[1] * t[0]).sum(1).mean()) / 2
        n, u = len(z[0]), torch.cat([unit(v) for v in z])
        total = 0.0
        for i in range(2 * n):
            total = total + sum(((u[i] @ u[j]) / 2.0).exp() for j in range(2 * n) if j not in (i, (i + n) % (2 * n)))
        return near + 0.1 * torch.log(total / (2 * n) / (2 * n - 2))

    def after(self, batch, step):
        m = 1 - (1 - 0.995) * (math.cos(math.pi * step / self.made.loader.steps) + 1) / 2
        self.follow(self.method.teacher.module, self.method.tower, m)


class SupReMix(Naive):
    """Every mixture made and held constant; the shares and the views are given."""

    def loss(self, batch, step):
        z = torch.cat([unit(v) for v in self.method.tower(torch.cat(self.views(batch)["vector"])).chunk(2)])
        y, still = (batch.values / self.method.unit).repeat(2), z.detach()
        shares = np.random.default_rng((batch.random_seed, 0)).beta(2, 8, size=(len(z), len(z)))
        return torch.stack([self.anchor(i, z, still, y, shares) for i in range(len(z))]).mean()

    def anchor(self, i, z, still, y, shares):
        cells, positives = [], []
        for k in (k for k in range(len(z)) if k != i):
            s = z[i] @ z[k] / 0.3
            cells.append(s + (abs(y[i] - y[k]) + 1).log())
            if y[k] == y[i]:
                positives.append(s)
            else:
                a = float(shares[i, k])
                mixed, label = a * still[i] + (1 - a) * still[k], a * y[i] + (1 - a) * y[k]
                cells.append(z[i] @ mixed / 0.3 + (abs(y[i] - label) + 1).log())
        for j in range(len(z)):
            for k in range(len(z)):
                if y[j] < y[i] < y[k] and y[i] - y[j] < 12 and y[k] - y[i] < 12:
                    a = (y[k] - y[i]) / (y[k] - y[j])
                    positives.append(z[i] @ (a * still[j] + (1 - a) * still[k]) / 0.3)
                    cells.append(positives[-1])
        return torch.logsumexp(torch.stack(cells), 0) - torch.stack(positives).mean()


class GroCo(Naive):
    """Four views; whole matrices of the sorting network; positives and negatives constant."""

    def loss(self, batch, step):
        z = [unit(v) for v in self.method.tower(torch.cat(self.views(batch)["image"])).chunk(4)]
        still, total = [v.detach() for v in z], []
        for a in range(4):
            for i in range(len(z[0])):
                far = torch.stack([z[a][i] @ still[a][j] for j in range(len(z[0])) if j != i]).sort().values[-3:]
                good = torch.stack([z[a][i] @ still[b][i] for b in range(4) if b != a]).sort().values
                total.append(self.row(torch.cat([far, good]), 3))
        return torch.stack(total).mean()

    def row(self, x, k):
        n, p = len(x), torch.eye(len(x))
        for layer in range(n):
            swap = torch.eye(n)
            for q in range(layer % 2, n - 1, 2):
                alpha = torch.atan(2.0 * (x[q + 1] - x[q])) / math.pi + 0.5
                place = torch.zeros(n, n)
                place[q, q], place[q, q + 1], place[q + 1, q], place[q + 1, q + 1] = -1, 1, 1, -1
                swap = swap + (1 - alpha) * place
            x, p = x @ swap, p @ swap
        u = p[:, :k].sum(1)
        return -(u[:k].log().sum() + (1 - u[k:]).log().sum()) / n


class TopTen(Naive):
    """The control: NT-Xent over the nearest items of the anchor's own view, which are constants."""

    def loss(self, batch, step):
        z = [unit(v) for v in self.method.tower(torch.cat(self.views(batch)["image"])).chunk(2)]
        rows = []
        for a, b in ((0, 1), (1, 0)):
            for i in range(len(z[0])):
                s = torch.stack([z[a][i] @ z[a][j].detach() for j in range(len(z[0])) if j != i]) / 0.5
                positive = z[a][i] @ z[b][i].detach() / 0.5
                rows.append(torch.logsumexp(torch.cat([s.topk(3).values, positive[None]]), 0) - positive)
        return torch.stack(rows).mean()


class Hydra(Naive):
    """Both views as anchors; every anchor filters all keys by its gate, which sees the pairs of the batch."""

    def loss(self, batch, step):
        z = self.method.tower(torch.cat(self.views(batch)["image"])).chunk(2)
        y, y2, g = self.method.drawn(batch)
        return self.pairs(z[0], z[1], y, y2, g), self.pairs(z[1], z[0], y, y2, g)

    def pairs(self, q, k, y, y2, g):
        terms = []
        for i in range(len(q)):
            s = [unit((g[i] * q[i])[None])[0] @ unit((g[i] * k[j])[None])[0] / 0.1 for j in range(len(k))]
            far = [s[j] for j in range(len(k)) if y[j] not in (y[i], y2[i])]
            terms += [torch.logsumexp(torch.stack([s[j], *far]), 0) - s[j] for j in range(len(k)) if y[j] == y2[i]]
        return torch.stack(terms).mean()


class HydraViews(Hydra):
    def loss(self, batch, step):
        return sum(super().loss(batch, step)) / 2


class HydraMomentum(Hydra):
    """A teacher's keys after its update, an ordinary InfoNCE beside, one predictor for both."""

    def loss(self, batch, step):
        views = torch.cat(self.views(batch)["image"])
        q = [self.method.predictors[0](v) for v in self.method.tower(views).chunk(2)]
        self.follow(self.method.teacher.module, self.method.tower,
                    1 - 0.01 * (math.cos(math.pi * step / self.made.loader.steps) + 1) / 2)  # fmt: skip
        with torch.no_grad():
            k = self.method.teacher.module(views).chunk(2)
        y, y2, g = self.method.drawn(batch)
        total = 0.0
        for a, b in ((0, 1), (1, 0)):
            instance = cross_entropy(unit(q[a]) @ unit(k[b]).T / 0.1, torch.arange(len(y)))
            total = total + (instance + 2.0 * self.pairs(q[a], k[b], y, y2, g)) / 3.0
        return total / 2


class SuSana(Naive):
    """Every row of the episode among all others, and the nearest wrong prototype of each query."""

    def loss(self, batch, step):
        z, ways = self.method.tower(self.views(batch)["image"][0]), len(batch)
        every = [[z[m * ways + c] for m in range(batch.members)] for c in range(ways)]
        means = [torch.stack(rows[:3]).mean(0) for rows in every]
        hinges = []
        for c, rows in enumerate(every):
            for row in rows[3:]:
                wrong = torch.stack([self.far(row, means[o]) for o in range(ways) if o != c])
                hinges.append((self.far(row, means[c]) - wrong.min() + 0.5).clamp(min=0))
        points = [(row, c) for c, rows in enumerate(every) for row in rows]
        return (torch.stack(hinges).mean() - self.score(points, batch.members).log()) / 2

    def far(self, a, b):
        return ((a - b).square().sum() + 1e-6).sqrt()

    def score(self, points, retrieved, k=4):
        same, other, hits, nearest = [], [], [], []
        for i, (a, y) in enumerate(points):
            found = [(self.far(a, b), label == y) for j, (b, label) in enumerate(points) if j != i]
            nearest.append(sorted(found, key=lambda one: float(one[0].detach()))[:retrieved])
        w = torch.stack([d for row in nearest for d, match in row[:k] if not match]).max()
        for row in nearest:
            wrong = [d for d, match in row if not match]
            h = torch.stack([d for d, _ in row[:k]]) / (torch.stack(wrong).min() if wrong else math.inf)
            h = h / h.max().clamp(min=1)
            own = [x for x, (_, match) in zip(h, row, strict=False) if match]
            off = [d / w for d, match in row[:k] if not match]
            same += [torch.stack(own).mean()] if own else []
            other += [torch.stack(off).mean()] if off else []
            hits.append(len(own) / k)
        return ((1 - torch.stack(same).mean() + torch.stack(other).mean()) / 2 + sum(hits) / len(hits)) / 2


class SepCLR(Naive):
    """Both encoders with their own projectors; one of four domains is the background."""

    def loss(self, batch, step):
        method, views = self.method, self.views(batch)["image"]
        target = [bool(d != method.code) for d in batch.domains]
        both = ((method.common, method.common_projector), (method.salient, method.salient_projector))
        c, s = ([*last(tower.head(tower.encoder(torch.cat(views)))).chunk(2)] for tower, last in both)
        c = [unit(v) for v in c]
        t = [torch.stack([row if on else 0 * row.detach() for row, on in zip(v, target, strict=True)]) for v in s]
        yes, no = ([k for k, on in enumerate(target) if on is which] for which in (True, False))
        spread = [sum(self.uniformity(v) for v in views) / 2 for views in (c, t)]
        common = torch.stack([self.squared(a, b) for a, b in zip(*c, strict=True)]).mean() + 2 * spread[0]
        salient = torch.stack([self.squared(s[0][k], s[1][k]) for k in yes]).mean() + 2 * spread[1]
        null = sum(torch.stack([v[k].square().sum() for k in no]).mean() for v in s) / 2
        entropy = sum(self.joint(a, b) for a, b in zip(c, t, strict=True)) / 2
        return common + 0.3 * salient + 0.5 * null + 0.7 * entropy

    def squared(self, a, b):
        return (a - b).square().sum()

    def uniformity(self, z):
        pairs = [(-self.squared(z[i], z[j])).exp() for i in range(len(z)) for j in range(i + 1, len(z))]
        return torch.stack(pairs).mean().log()

    def joint(self, c, s):
        rows = [torch.stack([(-self.squared(c[i], c[j]) - self.squared(s[i], s[j])).exp() for j in range(len(c))])
                for i in range(len(c))]  # fmt: skip
        return torch.stack([row.mean().log() for row in rows]).mean()


class INS(Naive):
    """One step each of the three parts of a run; the last one with a bag."""

    def loss(self, batch, step):
        x, rows = self.views(batch)["vector"], batch.rows.tolist()
        data, m = self.method.survey.data, self.method
        positive = {r: data.target_names[data.targets[r]] == "tumour" for r in rows}
        h = m.tower.encoder(x[0])
        o, q = m.classifier(h), unit(m.tower.head(h))
        self.follow(m.teacher.module, m.tower, 0.9)
        with torch.no_grad():
            k = unit(m.teacher.module(x[1]))
        p = o.softmax(1).detach()
        c = [int(positive[r] and p[i, 1] > p[i, 0]) for i, r in enumerate(rows)]
        mu, soft = self.memory.setdefault("mu", torch.zeros(2, m.dim)), self.memory.setdefault("soft", {})
        queue, past = m.keys.keys.clone(), self.memory.setdefault("past", [-1] * len(m.keys.keys))
        r = (q.detach() @ mu.T).softmax(1)
        targets = [[0.5, 0.5] if positive[row] else [1.0, 0.0] for row in rows]
        total = 0.0
        if step == 0:
            targets = [[float(not positive[row]), float(positive[row])] for row in rows]
        if step == 1:
            assert all(positive.values())
            total = 0.5 * torch.stack([self.moco(q[i], k[i], queue) for i in range(len(q))]).mean()
        if step == 2:
            v, known = torch.cat([q, k, queue]), [*c, *c, *past]
            total = 0.5 * torch.stack([self.near(i, q, v, known) for i in range(len(q))]).mean()
            phi = 0.95 + (0.8 - 0.95) * 2 / 7
            for i, row in enumerate(rows):
                if positive[row]:
                    hot = float(r[i, 1] > r[i, 0])
                    before = soft.get(row, [0.5, 0.5])
                    soft[row] = targets[i] = [phi * a + (1 - phi) * b for a, b in zip(before, (1 - hot, hot),
                                                                                     strict=True)]  # fmt: skip
            total = total + 0.3 * self.bag(step, data)
        if step:
            self.remember(q, k, c)
        return total - (torch.tensor(targets) * log_softmax(o, 1)).sum(1).mean()

    def moco(self, q, k, queue):
        s = torch.cat([k[None], queue]) @ q / 0.07
        return s.logsumexp(0) - s[0]

    def near(self, i, q, v, known):
        others = [j for j in range(len(v)) if j != i]
        own = [j for j in others if known[j] == known[i]]
        s = v @ q[i] / 0.07
        return torch.logsumexp(s[others], 0) - s[own].mean()

    def remember(self, q, k, c):
        with torch.no_grad():
            for row, cls in zip(q, c, strict=True):
                self.memory["mu"][cls] = 0.9 * self.memory["mu"][cls] + 0.1 * row
            self.memory["mu"].copy_(unit(self.memory["mu"]))
            for row, cls in zip(k, c, strict=True):
                at = self.memory.setdefault("at", 0)
                self.method.keys.keys[at % len(self.method.keys.keys)], self.memory["past"][at % 16] = row, cls
                self.memory["at"] = at + 1

    def bag(self, step, data):
        names = sorted({data.bags[r] for r in data.splits["train"]})
        name = names[int(np.random.default_rng([0, 0, 17]).permutation(len(names))[step])]
        rows = np.array([r for r in data.splits["train"] if data.bags[r] == name])
        x = self.method.survey.viewed(rows, step).views["vector"][0]
        p = self.method.classifier(self.method.tower.encoder(x)).softmax(1)[:, 1].mean()
        return -torch.log(p) if data.target_names[data.targets[rows[0]]] == "tumour" else -torch.log(1 - p)


class ABMIL(Naive):
    """Whole bags of six rows, one a step for a batch of eight."""

    def loss(self, batch, step):
        m, data = self.method, self.method.survey.data
        assert len(set(data.bags[batch.rows])) == 1
        h = m.tower.encoder(self.views(batch)["vector"][0])
        a = torch.stack([m.attention.score.weight[0] @ torch.tanh(m.attention.main(x)) for x in h]).softmax(0)
        logit = m.classifier((a[:, None] * h).sum(0))[0]
        hot = data.target_names[data.targets[batch.rows[0]]] == "tumour"
        return -torch.log(torch.sigmoid(logit if hot else -logit))


class SimCSE(Naive):
    """Copies of a sentence, here without dropout: the first against those of all sentences; a linear layer and tanh."""

    def heads(self, batch):
        linear = self.method.tower.head[0]
        return [torch.tanh(self.method.tower.encoder(x) @ linear.weight.T + linear.bias)
                for x in self.views(batch)["text"]]  # fmt: skip

    def loss(self, batch, step):
        z, total = [unit(v) for v in self.heads(batch)], 0.0
        for v in z[1:]:
            for i in range(len(v)):
                s = torch.stack([z[0][i] @ v[j] / 0.05 for j in range(len(v))])
                total = total + (s.logsumexp(0) - s[i]) / len(v)
        return total


class WhitenedCSE(SimCSE):
    """Groups of each copy from the numbers of the step, whitened one by one; the matrix is a constant."""

    def heads(self, batch):
        linear, make, found = self.method.tower.head[0], batch.common_generator(1), []
        size = self.method.dim // self.method.groups
        for x in self.views(batch)["text"]:
            h = self.method.tower.encoder(x)
            columns: list[Any] = [None] * h.shape[1]
            for own in torch.randperm(h.shape[1], generator=make).split(size):
                y = h[:, own] - h[:, own].mean(0)
                values, u = torch.linalg.eigh((y.detach().T @ y.detach() / len(y)).double())
                w = (u * values.rsqrt()) @ u.T
                for k, place in enumerate(own.tolist()):
                    columns[place] = y @ w[:, k].float()
            found.append(torch.tanh(torch.stack(columns, 1) @ linear.weight.T + linear.bias))
        return found


class L1Regression(Naive):
    """One view; the number in deviations from the mean of the training rows."""

    def loss(self, batch, step):
        m, y = self.method, self.method.survey.data.target_values[self.made.rows]
        o = [m.linear(m.tower.encoder(x[None]))[0, 0] for x in self.views(batch)["vector"][0]]
        wanted = (batch.values - y.mean()) / y.std()
        return sum(abs(a - b) for a, b in zip(o, wanted, strict=True)) / len(o)


class CoT(Naive):
    """Three classifiers by cosine; a step with partners mixes images and words, its encoder is held in evaluation
    mode and only has values."""

    def normed(self, x, norm):
        """Batch norm of rows, or of all places of one channel."""
        mean, var = x.mean(0), x.var(0, correction=0)
        return norm.weight * (x - mean) / (var + norm.eps).sqrt() + norm.bias

    def dense(self, layer, x):
        return x @ layer.weight.T + layer.bias

    def attribute(self, maps, item):
        m, pooled = self.method.primitives, []
        for gate, f in zip(m.guides, maps, strict=True):
            hidden = self.dense(gate.channels[0], torch.cat([item, f.mean((2, 3))], 1)).relu()
            through = f * self.dense(gate.channels[2], hidden).sigmoid()[:, :, None, None]
            both = torch.stack([item.mean(1)[:, None, None].expand(f.shape[0], *f.shape[2:]), through.mean(1)], 1)
            padded = torch.nn.functional.pad(both, (1, 1, 1, 1))
            h, w = f.shape[2:]
            windows = [padded[:, c, y : y + h, x : x + w] * gate.places[0].weight[0, c, y, x]
                       for c in range(2) for y in range(3) for x in range(3)]  # fmt: skip
            places = self.normed(sum(windows).reshape(-1, 1), gate.places[1]).reshape(f.shape[0], 1, h, w)
            pooled.append((f + through * places.sigmoid()).mean((2, 3)))
        return self.dense(m.attributes, torch.cat(pooled, 1))

    def labels(self, attributes, objects):
        net = self.method.composer.net
        x = self.normed(self.dense(net[0], torch.cat([objects, attributes], 1)), net[1]).relu()
        return self.dense(net[6], self.normed(self.dense(net[3], x), net[4]).relu())

    def told(self, z, classes, true, t):
        rows = [[(unit(a[None]) @ unit(c[None]).T)[0, 0] / t for c in classes] for a in z]
        return sum(torch.logsumexp(torch.stack(row), 0) - row[k] for row, k in zip(rows, true, strict=True)) / len(z)

    def loss(self, batch, step):
        m, body, encoder = self.method, self.method.composer, self.method.tower.encoder
        data, x = m.survey.data, torch.cat(self.views(batch)["image"])
        cells = [data.cells_of(name) for name in ("attribute", "object")]
        pairs = [(a, o) for a, o in zip(*cells, strict=True)]
        seen = sorted({pairs[i] for i in self.made.rows})
        names, things = sorted(set(cells[0])), sorted(set(cells[1]))
        mine = [pairs[i] for i in batch.rows.tolist()][: len(x)]
        encoder.train(step < 2)
        with torch.set_grad_enabled(step < 2):
            found, maps = (x - encoder.mean) / encoder.std, []
            for part in encoder.body:
                found = part(found)
                maps += [found] if isinstance(part, torch.nn.ReLU) else []
        item = self.dense(m.primitives.objects, found.mean((2, 3)))
        attribute = self.attribute([maps[2], maps[1], maps[0]], item)
        hidden = self.dense(m.primitives.pairs[1], torch.cat([item, attribute], 1)).relu()
        pair = self.dense(m.primitives.pairs[3], hidden)
        words = [torch.stack([body.attributes[names.index(a)] for a, _ in seen]),
                 torch.stack([body.objects[things.index(o)] for _, o in seen])]  # fmt: skip
        y = self.labels(*words)
        total = (self.told(pair, y, [seen.index(p) for p in mine], 0.05)
                 + 0.4 * self.told(item, body.objects, [things.index(o) for _, o in mine], 0.05)
                 + 0.6 * self.told(attribute, body.attributes, [names.index(a) for a, _ in mine], 0.05))  # fmt: skip
        if step < 2:
            assert len(x) == 8
            return total
        assert len(x) == 8
        assert batch.members == 2
        rng = np.random.default_rng([batch.seed, batch.number, 23])
        rng.random()
        share, n = rng.beta(1, 1), len(x) // 2
        assert all(a[1] == b[1] and a[0] != b[0] for a, b in zip(mine[:n], mine[n:], strict=True))
        u = unit(share * pair[:n] + (1 - share) * pair[n:])
        e_a = [body.attributes[names.index(a)] for a, _ in mine]
        virtual = torch.stack([share * e_a[i] + (1 - share) * e_a[n + i] for i in range(n)])
        q = unit(self.labels(virtual, torch.stack([body.objects[things.index(o)] for _, o in mine[:n]])))
        for i in range(n):
            logits = torch.cat([(u[i] @ q[i])[None], unit(y) @ u[i]]) / 0.1
            total = total + cross_entropy(logits[None], torch.zeros(1, dtype=torch.long)) / n
        return total


class Pairs(Naive):
    """Both sides of rows: an image and its text."""

    def sides(self, batch):
        views = self.method.make_views(batch)
        image = views["image"][0]
        return unit(self.method.tower_a(image)), unit(self.method.tower_b(views["text"][0]))


class Align(Pairs):
    """Both directions summed, smoothed targets, a learned temperature."""

    def loss(self, batch, step):
        a, b = self.sides(batch)
        s, total = a @ b.T / self.method.tau.log_tau.exp(), 0.0
        for one in (s, s.T):
            q = torch.full_like(one, 0.1 / len(one)) + 0.9 * torch.eye(len(one))
            total = total - (q * log_softmax(one, 1)).sum(1).mean()
        return total


class NegCLIP(Naive):
    """Images [x; x_h] against texts [t; t_h; t-; t_h-], row by row; the true texts back against the images. A
    caption of one word has no hard one."""

    def loss(self, batch, step):
        views, (a, b) = self.views(batch), (self.method.tower_a, self.method.tower_b)
        images = torch.cat([unit(a(x)) for x in views["image"]])
        texts = torch.cat([unit(b(x)) for x in [*views["text"], *views["negative"]]])
        assert (len(images), len(texts)) == (16, 32)
        s = self.method.tau.log_tau.neg().exp() * images @ texts.T
        there = [*range(16), *(16 + (batch.negatives[0] >= 0).nonzero()[:, 0]).tolist()]
        forth = sum(s[i, there].logsumexp(0) - s[i, i] for i in range(16)) / 16
        back = sum(s[:, j].logsumexp(0) - s[j, j] for j in range(16)) / 16
        return (forth + back) / 2

    def after(self, batch, step):
        with torch.no_grad():
            self.method.tau.log_tau.clamp_(-math.log(100), 0)


class Rocket(Naive):
    """A weak view and two strong ones of images and captions, the strong ones through heads of their own."""

    eps, times = 0.1, 1.0

    def loss(self, batch, step):
        m, views = self.method, self.views(batch)
        self.features, z, h = [], [], []
        for role, tower, head in zip(("image", "text"), (m.tower_a, m.tower_b), m.local_heads, strict=True):
            f = [tower.encoder(x) for x in views[role]]
            self.features.append(f)
            z.append(unit(f[0] @ tower.head.weight.T))
            h.append([unit(head(x)) for x in f[1:]])
        s, local = m.tau.log_tau.neg().exp(), m.local_tau.log_tau.neg().exp()
        self.local = [[local * p @ q.T for q in h[1]] for p in h[0]]
        whole = (self.entropy(s * z[0] @ z[1].T, 0.0) + self.entropy(s * z[1] @ z[0].T, 0.0)) / 2
        pairs = [(self.entropy(x, self.eps) + self.entropy(x.T, self.eps)) / 2 for row in self.local for x in row]
        return self.times * (whole + 2 * sum(pairs) / 4) / 3 + self.extra(views)

    def entropy(self, s, eps):
        n, total = len(s), 0.0
        for i in range(n):
            for j in range(n):
                total = total - ((1 - eps) * (i == j) + eps / n) * (s[i, j] - s[i].logsumexp(0))
        return total / n

    def extra(self, views):
        return 0.0

    def after(self, batch, step):
        with torch.no_grad():
            for tau in (self.method.tau, self.method.local_tau):
                tau.log_tau.clamp_(-math.log(100), 0)


PAIRS_OF_VIEWS = [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]


class RocketSum(Rocket):
    times = 2.0


class BarLIP(Rocket):
    def extra(self, views):
        v = [[p(f) for f in side] for p, side in zip(self.method.projectors, self.features, strict=True)]
        total = 0.0
        for a, b in PAIRS_OF_VIEWS:
            c = v[0][a].T @ v[1][b] / len(v[0][a])
            weights = torch.where(torch.eye(len(c), dtype=torch.bool), 1.0, 0.005)
            total = total + 0.025 * (weights * (c - torch.eye(len(c))).square()).sum()
        return total / 5


class SiamLIP(Rocket):
    def extra(self, views):
        m = self.method
        v = [[p(f) for f in side] for p, side in zip(m.projectors, self.features, strict=True)]
        p = [[predict(x) for x in side] for predict, side in zip(m.predictors, v, strict=True)]
        v, total = self.targets(v, views), 0.0
        for a, b in PAIRS_OF_VIEWS:
            total = total + (2 - 2 * (unit(p[0][a]) * unit(v[1][b])).sum(1)).mean()
            total = total + (2 - 2 * (unit(p[1][a]) * unit(v[0][b])).sum(1)).mean()
        return total / 10

    def targets(self, v, views):
        return [[x.detach() for x in side] for side in v]


class BYOLIP(SiamLIP):
    """Targets of the same views by a copy that follows after every step."""

    @torch.no_grad()
    def targets(self, v, views):
        return [[tower.head(tower.encoder(x)) for x in views[role]]
                for role, tower in zip(("image", "text"), self.method.teacher.module, strict=True)]  # fmt: skip

    def after(self, batch, step):
        super().after(batch, step)
        m = self.method
        for copied, tower, projector in zip(m.teacher.module, (m.tower_a, m.tower_b), m.projectors, strict=True):
            self.follow(copied.encoder, tower.encoder, 0.9)
            self.follow(copied.head, projector, 0.9)


class SwALIP(Rocket):
    eps = 0.0

    def extra(self, views):
        tau, total = self.method.local_tau.log_tau.exp(), 0.0
        for a in range(2):
            for b in range(2):
                s, other = self.local[a][b], self.local[1 - a][1 - b].detach() * tau.detach()
                for scores, target in ((s, other), (s.T, other.T)):
                    total = total - (self.code(target) * log_softmax(scores, 1)).sum(1).mean() / 2
        return 0.2 * total / 4

    code = Swapped.code


class MCLPairs(Pairs):
    """The first of two stages of pairs: both directions, their mean; a run of its own of 4 steps."""

    run, warmup = 4, 0

    def loss(self, batch, step):
        a, b = self.sides(batch)
        s, own = a @ b.T / 0.07, torch.arange(len(a))
        return (cross_entropy(s, own) + cross_entropy(s.T, own)) / 2


class CWCL(Pairs):
    def loss(self, batch, step):
        p, q = self.sides(batch)
        q = q.detach()
        w = q @ q.T / 2 + 0.5
        w, s = w / w.sum(1, keepdim=True), p @ q.T / 0.07
        return -(w * log_softmax(s, 1)).sum(1).mean() + cross_entropy(s.T, torch.arange(len(s)))


class Composed(Naive):
    """Word by word: each composition of training rows as its own sequence of vectors through the frozen tower."""

    def loss(self, batch, step):
        method, data = self.method, self.made.method.survey.data
        encoder, prompts = method.tower_b.encoder, method.prompts
        names = list(zip(data.values("attribute"), data.values("object"), strict=True))
        train = data.splits["train"].tolist()
        seen = sorted({names[i] for i in train})
        table, ids = encoder.table.weight, encoder.encode_ids(["a photo of"])[0]
        context = self.context(prompts, [table[i] for i in ids])
        vectors = []
        for attribute, item in seen:
            words = [self.word(prompts, table, encoder, name) for name in (attribute, item)]
            row = [table[encoder.special.bos], *context, *words, table[encoder.special.eos]]
            x = encoder.embedded(encoder.build([[ids[0]] * (len(row) - 2)]))
            t = encoder(x._replace(vectors=torch.stack(row)[None]))[0]
            vectors.append(t / t.norm())
        images = method.tower_a.embed(method.make_views(batch)["image"][0]).detach()
        total = 0.0
        for x, row in zip(images, batch.rows.tolist(), strict=True):
            z = torch.stack([100 * (x / x.norm()) @ t for t in vectors])
            total = total + torch.logsumexp(z, 0) - z[seen.index(names[row])]
        return total / len(images)


class CSP(Composed):
    def context(self, prompts, plain):
        return plain

    def word(self, prompts, table, encoder, name):
        return prompts.words[[*prompts.attributes, *prompts.objects].index(name)]


class CoOp(Composed):
    def context(self, prompts, plain):
        return list(prompts.context)

    def word(self, prompts, table, encoder, name):
        return table[encoder.encode_ids([name])[0]].mean(0)


def log_loss(p, y):
    return -torch.log(torch.sigmoid(p if y else -p))


class DSE(Naive):
    """Every text alone: both layers side by side, mean without [CLS]; labels and the teacher, half each."""

    def loss(self, batch, step):
        data, terms = self.method.survey.data, []
        for row in batch.rows.tolist():
            u, v = (self.vector(data.values(role)[row]) for role in ("text", "text_b"))
            p = self.method.head.layers(torch.cat([u, v, u * v, abs(u - v)])[None])[0, 0]
            y, t = data.values("pair_label")[row] == "yes", float(data.values("teacher")[row])
            terms.append(0.5 * log_loss(p, y) + 0.5 * (p - t) ** 2)
        return sum(terms) / len(terms)

    def vector(self, text):
        encoder = self.method.tower.encoder
        states, _ = encoder.tokens(encoder.prepare([text]), 2)
        return torch.cat([torch.stack(list(layer[0][1:])).mean(0) for layer in states])


class CrossEncoder(Naive):
    """Every pair alone, as one sequence."""

    def loss(self, batch, step):
        data, m, terms = self.method.survey.data, self.method, []
        encoder, special = m.tower.encoder, m.tower.encoder.special
        for row in batch.rows.tolist():
            a, b = (encoder.encode_ids([data.values(role)[row]])[0] for role in ("text", "text_b"))
            ids = torch.tensor([special.bos, *a, special.eos, *b, special.eos])
            side = torch.tensor([0] * (len(a) + 2) + [1] * (len(b) + 1))
            x = encoder.embedded(Tokens(ids[None], torch.ones(1, len(ids), dtype=torch.bool)))
            h = encoder.tokens(x._replace(vectors=x.vectors + m.scorer.side.weight[side]))[0][0].mean(0)
            terms.append(log_loss(m.scorer.last(h)[0], data.values("pair_label")[row] == "yes"))
        return sum(terms) / len(terms)


class MoE(Naive):
    """Every text alone through the expert of its domain; both directions."""

    def loss(self, batch, step):
        sides, routed = zip(*(self.side(batch, role) for role in ("text", "text_b")), strict=True)
        a, b = (torch.stack([v / v.norm() for v in side]) for side in sides)
        terms = [torch.logsumexp(s, 0) - s[i] for m in (a @ b.T, b @ a.T) for i, s in enumerate(m / 0.05)]
        return sum(terms) / len(terms) + self.routers(routed, batch)

    def side(self, batch, role):
        x, m, z, said = self.views(batch)[role][0], self.method, [], []
        for i in range(len(batch)):
            one = Tokens(x.ids[i : i + 1, x.mask[i]], x.mask[i : i + 1, x.mask[i]], x.route[i : i + 1])
            states = m.tower_a.encoder.tokens(one)[0][0]
            z.append(self.pooled(states, m.tower_a.head))
            said.append(m.tower_a.encoder.router_logits[:, 0] if m.routing == "router" else None)
        return z, said

    def pooled(self, states, head):
        h = states.mean(0)
        h = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt() * head[0].weight + head[0].bias
        return torch.tanh(h @ head[1].weight.T + head[1].bias) @ head[3].weight.T + head[3].bias

    def routers(self, routed, batch):
        return 0.0


class MoERouted(MoE):
    """[CLS], linear and tanh; the router's loss on the mean over both texts and layers."""

    def pooled(self, states, head):
        return torch.tanh(states[0] @ head[0].weight.T + head[0].bias)

    def routers(self, routed, batch):
        total, both, names = 0.0, [], self.method.survey.data.values("domain")
        for a, b, row in zip(*routed, batch.rows.tolist(), strict=True):
            s = ((a + b) / 2).mean(0)
            total = total + torch.logsumexp(s, 0) - s[["sea", "sky", "wood"].index(names[row])]
            both += [*a, *b]
        p = torch.stack([torch.softmax(s, 0) for s in both]).mean(0)
        f = [sum(int(s.argmax()) == e for s in both) / len(both) for e in range(3)]
        return 0.5 * total / len(batch) + 0.3 * 3 * sum(p[e] * f[e] for e in range(3))


class CVIB(Naive):
    """Noise of the gates in the order in which it is drawn; both losses before either step."""

    def loss(self, batch, step):
        m = self.method
        with torch.no_grad():
            first = self.told(m.pruned, batch)[1]
        said, original = self.told(m.original, batch)
        told, pruned = self.told(m.pruned, batch)
        total = self.classes(said, batch) + 0.5 * self.contrast(first, original)
        total = total + self.classes(told, batch) + 0.5 * self.contrast(pruned, original.detach())
        length = batch.inputs["text"].ids.shape[1] + 2
        gates = [gate for layer in m.pruned.encoder.stack for gate in [layer.gate]]
        kl = sum(0.5 * length * torch.log(1 + g.mu**2 / (g.logvar.exp() + 1e-8)).sum() for g in gates)
        return total + 1e-5 * kl

    def told(self, network, batch):
        r = network.encoder(frame(batch.inputs["text"], network.encoder.special))
        h, layers = r, network.classifier
        for place in (0, 2):
            h = torch.relu(h @ layers[place].weight.T + layers[place].bias)
        return h @ layers[4].weight.T + layers[4].bias, r

    def classes(self, logits, batch):
        y = [["animal", "plant"].index(self.method.survey.data.values("target")[row]) for row in batch.rows.tolist()]
        return -sum(log_softmax(logits, 1)[i, k] for i, k in enumerate(y)) / len(y)

    def contrast(self, anchors, candidates):
        s = unit(anchors) @ unit(candidates).T / 0.1
        return sum(torch.logsumexp(row, 0) - row[i] for i, row in enumerate(s)) / len(s)


class RDrop(Naive):
    """Two passes under other dropout; sums over classes in loops."""

    def loss(self, batch, step):
        x = frame(batch.inputs["text"], self.method.tower.encoder.special)
        h = [self.method.tower.encoder(x) for _ in range(2)]
        linear, names = self.method.classifier[0], ["animal", "plant"]
        p, q = (log_softmax(v @ linear.weight.T + linear.bias, 1) for v in h)
        y = [names.index(self.method.survey.data.values("target")[row]) for row in batch.rows.tolist()]
        known = -sum(p[i, k] + q[i, k] for i, k in enumerate(y)) / (2 * len(y))
        apart = [(p[i].exp() * (p[i] - q[i])).sum() + (q[i].exp() * (q[i] - p[i])).sum() for i in range(len(y))]
        return known + 3.0 * sum(apart) / (2 * len(y))


class M3CoL(Naive):
    """Mixtures against clean rows in the first two of eight steps, then soft targets; classifiers layer by layer. The
    draws of mixtures are given."""

    inputs, official = False, False

    def loss(self, batch, step):
        views, roles = self.views(batch), ("image", "text")
        e = [tower(views[role][0]) for role, tower in zip(roles, self.method.encoders, strict=True)]
        total = sum(self.told(head, x, batch) for head, x in zip("012", (torch.cat(e, 1), *e), strict=True))
        drawn = [self.method.mixture(batch, k) for k in range(2)]
        assert len(views["image"]) == (2 if self.inputs and step < 2 else 1)
        if step >= 2:
            return total + 0.5 * (self.soft(e[0], e[1]) + self.soft(e[1], e[0]))
        mixed = [self.mixed(x, *one) for x, one in zip(e, drawn, strict=True)]
        if self.inputs:
            mixed[0] = self.method.encoders[0](self.mixed(views["image"][0], *drawn[0]))
        clean = mixed if self.official else e
        return total + 0.5 * (self.near(mixed[0], clean[1], *drawn[0]) + self.near(mixed[1], clean[0], *drawn[1]))

    def told(self, head, x, batch):
        layers = self.method.fused.heads[head]
        for place in (0, 2):
            x = torch.relu(x @ layers[place].weight.T + layers[place].bias)
        p = log_softmax(x @ layers[4].weight.T + layers[4].bias, 1)
        values = self.method.survey.data.values("category")
        y = [sorted(set(values)).index(values[row]) for row in batch.rows.tolist()]
        return -sum(p[i, k] for i, k in enumerate(y)) / len(y)

    def mixed(self, x, partner, shares):
        return torch.stack([shares[i] * x[i] + (1 - shares[i]) * x[j] for i, j in enumerate(partner.tolist())])

    def near(self, mixed, clean, partner, shares):
        s, p, n = unit(mixed) @ unit(clean).T / 0.2, torch.zeros(len(mixed), len(mixed)), len(mixed)
        for i, j in enumerate(partner.tolist()):
            p[i, i] += shares[i]
            p[i, j] = 1 - shares[i] if self.official else p[i, j] + 1 - shares[i]
        return -(p * (s.log_softmax(1) + s.log_softmax(0))).sum() / (2 * n)

    def soft(self, a, b):
        s, t = unit(a) @ unit(b).T / 0.3, (unit(b) @ unit(b).T / 0.3).softmax(1)
        return -(t * (s.log_softmax(1) + s.T.log_softmax(1))).sum() / (2 * len(a))


class M3CoLInputs(M3CoL):
    inputs = True


class M3CoLReleased(M3CoL):
    official = True


class Contriever(Naive):
    """Query crop against the teacher's key crop and the queue; raw inner products; m before the keys."""

    def loss(self, batch, step):
        a, b = self.method.make_views(batch)["text"]
        q = self.method.tower(a)
        self.follow(self.method.teacher.module, self.method.tower, 0.9)
        with torch.no_grad():
            k = self.method.teacher.module(b)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.method.negatives.keys.clone().T], 1) / 0.05
        self.memory["keys"] = k
        return cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def after(self, batch, step):
        self.enqueue(self.memory["keys"])


class CCP(Naive):
    """Keys by the running statistics of earlier steps, then centres, then contexts by those of the batch; a bank of
    past keys for each language."""

    def __init__(self, method, made):
        super().__init__(method, made)
        head, self.banks = method.head, {}
        self.mean, self.var = head.norm.running_mean.clone(), head.norm.running_var.clone()

    def head(self, h, past):
        head = self.method.head
        x = h @ head.first.weight.T + head.first.bias
        mean, var = (self.mean, self.var) if past else (x.mean(0), x.var(0, unbiased=False))
        if not past:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
            self.var = 0.9 * self.var + 0.1 * x.var(0).detach()
        x = (x - mean) / (var + 1e-5).sqrt() * head.norm.weight + head.norm.bias
        return unit(x.clamp(min=0) @ head.last.weight.T + head.last.bias)

    def loss(self, batch, step):
        sides = [self.method.tower(x) for x in self.views(batch)["text"]]
        keys = [self.head(h, past=True) for h in sides]
        queries = [self.head(h, past=False) for h in sides]
        languages, total, counted = batch.domains[: len(batch)].tolist(), 0.0, 0
        for q, k in zip(queries, keys[::-1], strict=True):
            for i, language in enumerate(languages):
                others = self.banks.get(language, [])
                scores = torch.stack([q[i] @ k[i], *(q[i] @ n for n in others)]) / 0.1
                total = total + scores.logsumexp(0) - scores[0]
                counted += len(others) > 0
        self.memory = [(x.detach(), language) for k in keys for x, language in zip(k, languages, strict=True)]
        return total / max(counted, 1)

    def after(self, batch, step):
        for key, language in self.memory:
            self.banks[language] = [*self.banks.get(language, []), key][-6:]


class CoCoSoDa(Naive):
    """Six terms, each with the other keys of the batch and a queue of the key's sort; the teacher follows first."""

    def loss(self, batch, step):
        method, views = self.method, self.views(batch)
        made = {"text": method.tower(views["text"][0]), "code": method.tower(views["text_b"][0])}
        self.follow(method.teacher.module, method.tower, 0.9)
        with torch.no_grad():
            for name, role in (("text'", "text"), ("code'", "text_b")):
                made[name] = method.teacher.module(views[role][1])
        self.memory, rows = {name: x.detach() for name, x in made.items()}, []
        for term in ("code text", "code text'", "text code", "text code'", "code code'", "text text'"):
            anchors, keys = (unit(made[name]) for name in term.split())
            past = unit(method.queues[term.split()[1]].keys.clone())
            for i, anchor in enumerate(anchors):
                logits = torch.cat([keys @ anchor, past @ anchor]) / 0.07
                rows.append(logits.logsumexp(0) - logits[i])
        return torch.stack(rows).mean()

    def after(self, batch, step):
        for name, rows in self.memory.items():
            queue, at = self.method.queues[name].keys, len(rows) * step
            for k, row in enumerate(rows):
                queue[(at + k) % len(queue)] = row


class DebCSETeacher(SimCSE):
    """The first of two stages, a run of its own of 4 steps; the second is in test_debcse.py."""

    run, warmup = 4, 0


class OneThenMore(Naive):
    """One step of a first stage, then a second stage, whose beginning changes nothing here."""

    def __init__(self, method, made):
        super().__init__(method, made)
        method.begin_stage = lambda stage: None
        made.loader.method = method

    def place(self, step):
        return (0, 1, 0) if step == 0 else (step - 1, 7, 1)


class MultiCSR(OneThenMore):
    """SimCSE for one step, whose encoder is frozen; then triplets from fresh weights, by loops over the candidates."""

    phi, official = 0.3, False

    def loss(self, batch, step):
        method, (anchor, *others) = self.method, self.views(batch)["text"]
        if step == 0:
            z = [unit(method.tower(x)) for x in (anchor, anchor)]
            return cross_entropy(z[0] @ z[1].T / 0.05, torch.arange(len(batch)))
        z = [unit(method.tower(x)) for x in (anchor, *others)]
        with torch.no_grad():
            m = [unit(self.memory["frozen"](x)) for x in (anchor, *others)]
        rows, n = [], len(batch)
        for i in range(n):
            logits = torch.cat([z[1] @ z[0][i], z[2] @ z[0][i]]) / 0.05
            near = torch.cat([m[1] @ m[0][i], m[2] @ m[0][i]]) > self.phi
            near[i] = False
            if self.official:
                p = torch.where(near, 0.0, logits).softmax(0)
                others = [j for j in range(2 * n) if j != i]
                rows.append(-(p[i].log() + (1 - p[others]).log().sum()) / (2 * n))
            else:
                rows.append(logits[~near].logsumexp(0) - logits[i])
            self.memory["hidden"] = self.memory.get("hidden", 0) + int(near.sum())
        assert self.memory["hidden"]
        return torch.stack(rows).mean()

    def after(self, batch, step):
        if step == 0:
            tower = self.method.tower
            self.memory["frozen"] = copy.deepcopy(tower.encoder).eval()
            self.method.frozen.encoder.load_state_dict(tower.encoder.state_dict())
            torch.manual_seed(1)
            tower.encoder.load_state_dict(self.made.method.survey.fresh(1000, "text").state_dict())
            tower.head[0].reset_parameters()


class MultiCSRReleased(MultiCSR):
    official = True


class Space2(Naive):
    """A labelled and an unlabelled half; ten heads; graded positives; values hidden. The views are given."""

    def loss(self, batch, step):
        method, (x, hidden) = self.method, self.views(batch)["text"]
        h = method.encoder(x)
        o = torch.tanh(h @ method.heads.linear.weight.T + method.heads.linear.bias).reshape(len(h), 10, -1)
        total = 0.0
        for labelled in (True, False):
            rows = [i for i, row in enumerate(batch.rows.tolist()) if (row in method.elements) == labelled]
            heads = [self.head(o[rows, k], batch.rows[rows].tolist(), k, labelled) for k in range(10)]
            total = total + sum(heads) / 10 + 0.1 * self.told(hidden, rows)
        return total

    def head(self, o, ids, k, labelled):
        z, n, terms = torch.cat([unit(o), unit(o)]), len(ids), []
        for a in range(2 * n):
            others = [b for b in range(2 * n) if b != a]
            s = torch.stack([z[a] @ z[b] / 0.07 for b in others])
            w = torch.tensor([self.score(ids[a % n], ids[b % n], k, labelled) for b in others])
            terms.append(-(w * (s - s.logsumexp(0))).sum() / w.sum())
        return torch.stack(terms).mean()

    def score(self, a, b, k, labelled):
        if a == b:
            return 1.0
        x, y = (self.method.elements[row][k] if labelled else set() for row in (a, b))
        return len(x & y) / len(x | y) if x | y else 0.0

    def told(self, hidden, rows):
        states = self.method.encoder.tokens(Tokens(hidden.ids[rows], hidden.mask[rows]))[0]
        linear, act, norm = self.method.scorer
        scores = norm(act(linear(states))) @ self.method.encoder.encoder.table.weight.T
        return cross_entropy(scores.flatten(0, 1), hidden.targets[rows].flatten(), ignore_index=-100)


class Grace(Naive):
    """Both copies of the whole graph pass the network, each by itself."""

    def embedded(self, batch):
        return [self.method.tower(v) for v in self.views(batch)["node"]]

    def loss(self, batch, step):
        return nt_xent(self.embedded(batch), 0.4)


class CSGCL(Grace):
    """Strengths from networkx's modularity; gamma 0, then 1 / 2 an epoch, at most 0.75; the row's own s_i too."""

    def loss(self, batch, step):
        graph = batch.inputs["node"].graph
        strength = strengths_by_networkx(graph)[batch.rows]
        a, b = (unit(z) for z in self.embedded(batch))
        epoch = step // max(1, 60 // len(a)) + 1
        gamma = max(0.0, min((epoch - 0) / 2, 0.75))
        total = []
        for query, key in ((a, b), (b, a)):
            for i in range(len(query)):
                across = [float(gamma * (strength[i] + strength[j])) + query[i] @ key[j] for j in range(len(key))]
                within = [float(gamma * (strength[i] + strength[j])) + query[i] @ query[j]
                          for j in range(len(key)) if j != i]  # fmt: skip
                scores = torch.stack(across + within) / 0.6
                total.append(torch.logsumexp(scores, 0) - scores[i])
        return torch.stack(total).mean()


class Bootstrapped(Naive):
    """A teacher of other weights, moved before each step but the first by what the last one's cosine says."""

    def loss(self, batch, step):
        a, b = self.views(batch)["node"]
        host = self.method.host
        teacher = host.teacher.module
        if step:
            m = 1 - (1 - 0.9) * (1 + math.cos(math.pi * (step - 1) / RUN)) / 2
            self.follow(teacher, self.method.tower, m)
        assert not torch.equal(teacher.encoder.convs[0].lin.weight, self.method.tower.encoder.convs[0].lin.weight)
        first, slope, last = host.predictor
        total = 2.0
        for x, y in ((a, b), (b, a)):
            h = self.method.tower.encoder(x) @ first.weight.T + first.bias
            p = torch.where(h > 0, h, slope.weight * h) @ last.weight.T + last.bias
            with torch.no_grad():
                t = teacher.encoder(y)
            total = total - sum(unit(p)[i] @ unit(t)[i] for i in range(len(p))) / len(p)
        return total


class Decorrelated(Naive):
    """The encoder written out: dense D^-1/2 (A + I) D^-1/2, batch norm and one PReLU after each product."""

    def nodes(self, x):
        encoder, graph, n = self.method.tower.encoder, x.graph, len(x.graph)
        a = torch.eye(n)
        for source, target in graph.edges.T.tolist():
            a[target, source] += 1
        root = (1 + torch.tensor([sum(t == i for t in graph.edges[1].tolist()) for i in range(n)])) ** -0.5
        h = encoder.scaled(graph)[0]
        for conv, norm in zip(encoder.convs, encoder.norms, strict=True):
            h = root[:, None] * (a @ (root[:, None] * (h @ conv.lin.weight.T))) + conv.bias
            h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
            h = torch.where(h > 0, h, encoder.activation.weight * h)
        return h[x.numbers]

    def loss(self, batch, step):
        z = [self.nodes(x) for x in self.views(batch)["node"]]
        a, b = ((x - x.mean(0)) / (x.std(0) + 1e-15) for x in z)
        c = a.T @ b / len(a)
        off = c - torch.diag(torch.diag(c))
        return ((1 - torch.diag(c)) ** 2).sum() + (off**2).sum() / len(c)


class GAugLLM(OneThenMore):
    """One step that tells neighbours from four texts of each node, then copies whose edges are given; by loops."""

    host = "bgrl"

    def read(self, mixture, v):
        """h and what it is made of, of one node."""
        texts = [mixture.text(mixture.text.build([own[v]]))[0] for own in mixture.ids]
        c, x = texts[:4], texts[4:]
        if len(c) == 1:
            return c[0]
        first, second = mixture.selector.first, mixture.selector.second
        u = []
        for one in c:
            hidden = first.weight @ one + first.bias
            u.append(torch.where(hidden > 0, hidden, 0.01 * hidden))
        a = second.weight @ torch.cat(u) + second.bias
        a = torch.stack([(a[k] + (c[k] * x[k]).sum()) / 0.2 for k in range(4)])
        alpha = a.exp() / a.exp().sum()
        return sum(alpha[k] * c[k] for k in range(4))

    def told(self, mixture, nodes, labels, targets, valid):
        rows = []
        for i, v in enumerate(nodes.tolist()):
            h, terms = self.read(mixture, v), []
            for j, label in enumerate(labels[i].tolist()):
                if valid[i, j]:
                    y = 1.0 if targets[i, j] else -1.0
                    terms.append((1 - y * (h @ mixture.labels.weight[label] + mixture.bias[label])).clamp(min=0) ** 2)
            rows.append(torch.stack(terms).mean())
        return torch.stack(rows).mean()

    def loss(self, batch, step):
        method = self.method
        if step == 1:
            with torch.no_grad():
                for name, mixture in (("h1", method.plain), ("h2", method.mixed)):
                    rows = torch.stack([self.read(mixture, v) for v in range(60)])
                    getattr(method, name).copy_(rows)
        views = self.views(batch)["node"]
        if step == 0:
            return self.told(method.mixed, *views) + self.told(method.plain, *views)
        self.check(views, batch.inputs["node"].graph)
        return self.barlow(views) if self.host == "barlow" else self.bgrl(views, step - 1)

    def check(self, views, graph):
        """View 1 is the graph; only pairs of candidates differ in view 2, in one direction."""
        a, b = ({tuple(e) for e in view.graph.edges.T.tolist()} for view in views)
        assert a == {tuple(e) for e in graph.edges.T.tolist()}
        listed = [set(row) for row in torch.cat([self.method.plan.apart, self.method.plan.like], 1).tolist()]
        assert a != b
        assert all(u in listed[v] for v, u in a ^ b)

    def barlow(self, views):
        z = [self.convolved(x, self.method.tower.encoder) for x in views]
        a, b = ((x - x.mean(0)) / (x.std(0) + 1e-15) for x in z)
        c = a.T @ b / len(a)
        off = c - torch.diag(torch.diag(c))
        return ((1 - torch.diag(c)) ** 2).sum() + (off**2).sum() / len(c)

    def bgrl(self, views, step):
        host, total = self.method.host, 2.0
        teacher = host.teacher.module
        if step:
            self.follow(teacher, self.method.tower, 1 - (1 - 0.9) * (1 + math.cos(math.pi * (step - 1) / 7)) / 2)
        first, slope, last = host.predictor
        for x, y in (views, views[::-1]):
            h = self.convolved(x, self.method.tower.encoder) @ first.weight.T + first.bias
            p = torch.where(h > 0, h, slope.weight * h) @ last.weight.T + last.bias
            with torch.no_grad():
                t = self.convolved(y, teacher.encoder)
            total = total - (unit(p) * unit(t)).sum(1).mean()
        return total

    def convolved(self, x, encoder):
        graph, n = x.graph, 60
        a = torch.eye(n)
        for source, target in graph.edges.T.tolist():
            a[target, source] += 1
        root = (1 + torch.tensor([float((graph.edges[1] == i).sum()) for i in range(n)])) ** -0.5
        h = graph.features[0]
        for conv, norm in zip(encoder.convs, encoder.norms, strict=True):
            h = root[:, None] * (a @ (root[:, None] * (h @ conv.lin.weight.T))) + conv.bias
            h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
            h = torch.where(h > 0, h, encoder.activation.weight * h)
        return h[x.numbers]


class GAugLLMBarlow(GAugLLM):
    host = "barlow"


class PamC(OneThenMore):
    """One step of the auto-encoder, k-means, then clusters in place of nodes, all by loops over dense matrices."""

    exact = False

    def loss(self, batch, step):
        method, nodes = self.method, batch.inputs["node"]
        x = nodes.graph.features[0]
        x = (x - x.mean(0)) / x.std(0, correction=0)
        h = x
        for layer in method.tower.encoder.convs:
            h = torch.relu(h @ layer.weight.T + layer.bias)
        z = method.tower.head(h)
        if step == 0:
            return ((method.decoder(z) - x) ** 2).mean()
        if step == 1:
            with torch.no_grad():
                found = torch.from_numpy(k_means(z, 3, seed=method.seed, restarts=20))
                method.centres.copy_(torch.stack([z[found == k].mean(0) for k in range(3)]))
        n, mu = len(z), method.centres
        q = torch.stack([torch.stack([1 / (1 + ((z[i] - mu[k]) ** 2).sum()) for k in range(3)]) for i in range(n)])
        q = q / q.sum(1, keepdim=True)
        p = (q**2 / q.sum(0)).detach()
        p = p / p.sum(1, keepdim=True)
        kl = (p * (p / q).log()).sum() / n
        return 0.7 * self.contrast(z, q.detach().argmax(1), self.influence(nodes.graph)) + 1.5 * kl

    def influence(self, graph):
        n = len(graph.types)
        a = torch.eye(n)
        a[graph.edges[0], graph.edges[1]] = 1
        a = a / a.sum(1, keepdim=True)
        return a + a @ a

    def contrast(self, z, y, near):
        s = unit(z) @ unit(z).T * (1 - torch.eye(len(z)))
        positive = -(near * (0.5 * s).exp()).sum(1).log().mean()
        if self.exact:
            return positive + (0.5 * s).exp().sum(1).log().mean()
        c = unit(torch.stack([z[y == k].sum(0) for k in range(3)]))
        t = c @ c.T * (1 - torch.eye(3))
        return positive + (0.5 * t).exp().sum(1).log().mean()


class PamCExact(PamC):
    exact = True


def dense_paths(graph):
    """Of paper-author-paper and paper-paper: counts by loops over edges, and the mean over the authors of a paper."""
    papers, authors = ((graph.types == k).nonzero()[:, 0].tolist() for k in (1, 0))
    wrote, cited = torch.zeros(len(papers), len(authors)), torch.eye(len(papers))
    for a, b in graph.edges.T.tolist():
        if a in papers and b in authors:
            wrote[papers.index(a), authors.index(b)] = 1
        elif a in papers and b in papers:
            cited[papers.index(a), papers.index(b)] = 1
    return [wrote @ wrote.T, cited], wrote / wrote.sum(1, keepdim=True).clamp(min=1)


def symmetric(counts):
    """D^-1/2 A^T D^-1/2 with 0 for what has no edge."""
    root = torch.where(counts.sum(1) > 0, counts.sum(1) ** -0.5, 0)
    return root[:, None] * counts.T * root


class Meow(Naive):
    """Dense matrices along two paths; clusters anew in every step; anchors are coarse."""

    def __init__(self, method, made):
        super().__init__(method, made)
        graph = method.graph
        counts, self.mean = dense_paths(graph)
        drawn = torch.Generator().manual_seed(method.seed)
        x = graph.features[1]
        x = (x - x.mean(0)) / x.std(0, correction=0)
        self.x, self.masked_x = x, x.clone()
        places = (x != 0).flatten().nonzero()[:, 0]
        self.masked_x.view(-1)[places[torch.randperm(len(places), generator=drawn)[: round(0.3 * len(places))]]] = 0
        authors = graph.features[0]
        self.authors = (authors - authors.mean(0)) / authors.std(0, correction=0).masked_fill(
            authors.std(0, correction=0) == 0, 1)  # fmt: skip
        self.adjacent, self.masked = [symmetric(a) for a in counts], []
        for a, share in zip(counts, (0.3, 0.2), strict=True):
            off = [(i, j) for i in range(len(a)) for j in range(len(a)) if a[i, j] > 0 and i != j]
            kept = torch.randperm(len(off), generator=drawn)[round(share * len(off)) :].tolist()
            b = torch.eye(len(a))
            for k in kept:
                b[off[k]] = 1
            self.masked.append(symmetric(b))

    def gcn(self, x, adjacent):
        net = self.method.tower.encoder
        hidden = adjacent @ (x @ net.convs[0].weight.T)
        hidden = torch.where(hidden > 0, hidden, net.activation.weight * hidden)
        z = adjacent @ (hidden @ net.convs[1].weight.T)
        return (z - z.mean()) / (((z - z.mean()) ** 2).mean() + 1e-5) ** 0.5

    def both(self):
        net, elu = self.method.tower.encoder, torch.nn.functional.elu
        h, m = (elu(x @ net.entry[1].weight.T + net.entry[1].bias) for x in (self.x, self.masked_x))
        own = elu(self.authors @ net.entry[0].weight.T + net.entry[0].bias)
        context = self.mean @ own @ net.between[0][0].weight.T
        coarse = self.gcn(h, (self.adjacent[0] + self.adjacent[1]) / 2)
        views = [unit(self.gcn(f, a)) for f, a in (
            (elu(h + context), self.adjacent[0]), (h, self.adjacent[1]),
            (elu(m + context), self.masked[0]), (m, self.masked[1]))]  # fmt: skip
        scores = [net.worth @ torch.stack([torch.tanh(net.attention.weight @ row + net.attention.bias) for row in z])
                  .mean(0) for z in views]  # fmt: skip
        beta = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        fine = sum(b * z for b, z in zip(beta, views, strict=True))
        head = self.method.tower.head[0]
        return [unit(torch.tanh(z @ head.weight.T + head.bias)) for z in (coarse, fine)]

    def loss(self, batch, step):
        u, v = self.both()
        found = [torch.from_numpy(k_means(v.detach(), k, seed=self.method.seed, restarts=5)) for k in (3, 8)]
        total = []
        for i in range(len(u)):
            w = torch.tensor([2.0 - sum(int(c[i] == c[j]) for c in found) for j in range(len(u))])
            total.append(-(u[i] @ v[i]) / 0.4 + (w * ((v @ u[i]) / 0.4).exp()).sum().log())
        return torch.stack(total).mean() + 0.5 * sum(self.prototypes(u, v.detach(), c) for c in found) / 2

    def prototypes(self, u, v, c):
        n, k = len(u), int(c.max()) + 1
        mu = unit(torch.stack([v[c == j].mean(0) for j in range(k)]))
        size = [int((c == j).sum()) for j in range(k)]
        raw = [(2 - 2 * v[c == j] @ mu[j]).clamp(min=0).sqrt().mean().item() / math.log(size[j] + 5) for j in range(k)]
        most = max(r for r, s in zip(raw, size, strict=True) if s > 1)
        raw = np.array([r if s > 1 else most for r, s in zip(raw, size, strict=True)])
        raw = np.clip(raw, *np.percentile(raw, [10, 90]))
        phi = torch.tensor(0.4 * raw / raw.mean(), dtype=torch.float32)
        rows = []
        for i in range(n):
            e = ((mu @ u[i]) / phi).exp()
            rows.append(-(e[c[i]] / (n / k * e.sum())).log())
        return torch.stack(rows).mean()


class AdaMeow(Meow):
    """Anchors are fine; the positive is in the sum with its own weight."""

    def loss(self, batch, step):
        u, v = self.both()
        first, second = self.method.scorer
        total = []
        for i in range(len(u)):
            hidden = torch.tanh((v[i] + u) @ first.weight.T + first.bias)
            alpha = torch.sigmoid(hidden @ second.weight[0] + second.bias)
            total.append(-(v[i] @ u[i]) / 1.0 + (alpha * (u @ v[i]).exp()).sum().log())
        return torch.stack(total).mean()


def strengths_by_networkx(graph):
    """S_c of each node's community, a summand of the modularity, by networkx alone."""
    drawn = networkx.Graph()
    drawn.add_nodes_from(range(len(graph.types)))
    drawn.add_edges_from(graph.edges.T.tolist())
    found = torch.zeros(len(graph.types))
    for members in networkx.community.louvain_communities(drawn, seed=0):
        inner = drawn.subgraph(members).number_of_edges() / drawn.number_of_edges()
        share = sum(dict(drawn.degree(members)).values()) / (2 * drawn.number_of_edges())
        found[list(members)] = inner - share**2
    return found


GAUG = {"prediction_share": 0.1, "prediction": "hinge", "text_batch": 5, "text_rate": 0.5, "selector_rate": 0.2}
PAMC = {"clusters": 3, "alpha": 0.7, "beta": 1.5, "inverse_temperature": 0.5, "order": 2, "reconstruction": 0.1}


class SASRec(Naive):
    """Every place of a history tells the item behind it, history after history."""

    every = True

    def loss(self, batch, step):
        return self.told(batch)

    def told(self, batch):
        encoder, x, item = self.method.tower.encoder, batch.inputs["user"], batch.inputs["item"].tolist()
        rows = []
        for row, n in enumerate(x.lengths.tolist()):
            h = encoder.states(Histories(x.ids[row : row + 1, :n], x.lengths[row : row + 1]))[0]
            wanted = [*x.ids[row, 1:n].tolist(), item[row]]
            for place in range(n) if self.every else [n - 1]:
                scores = encoder.table.weight[1:-1] @ h[place]
                rows.append(torch.logsumexp(scores, 0) - scores[wanted[place] - 1])
        return torch.stack(rows).mean()


class CL4SRec(SASRec):
    """The last place alone, and the two views of each history."""

    every = False

    def loss(self, batch, step):
        return self.told(batch) + 0.3 * reference.pair_contrast(*self.states(batch), 0.7)

    def states(self, batch):
        return [self.method.tower(view) for view in self.views(batch)["user"][1:]]


class MCLRecJoint(CL4SRec):
    """One update of encoder and augmenters."""

    def loss(self, batch, step):
        h1, h2 = self.states(batch)
        z1, z2 = (self.made_of(h, w.net) for h, w in zip((h1, h2), self.method.augmenters, strict=True))
        apart = sum(reference.pair_contrast(a, b) for a, b in ((z1, z2), (h1, z2), (h2, z1)))
        easy = sum(reference.contrast_regulariser(a, b, 0.7) for a, b in ((h1, z2), (h2, z1), (z1, z2)))
        return self.told(batch) + 0.3 * reference.pair_contrast(h1, h2, 0.7) + 0.2 * (apart + 0.4 * easy)

    def made_of(self, h, net):
        for place in (0, 2):
            h = torch.nn.functional.gelu(h @ net[place].weight.T + net[place].bias)
        h = h @ net[4].weight.T + net[4].bias
        return h / h.norm(dim=1, keepdim=True)


class TS2Vec(Naive):
    """The steps that both crops have, pair by pair, at every scale; and the mean of the weights."""

    def loss(self, batch, step):
        first, second, *keep, shared = self.views(batch)["series"]
        many, steps = int(shared[0]), self.method.tower.encoder.steps
        a, b = steps(first, keep[0])[:, -many:], steps(second, keep[1])[:, :many]
        parts = []
        while True:
            parts.append(0.5 * self.pairs(a, b) + 0.5 * (self.pairs(*(z.transpose(0, 1) for z in (a, b)))))
            if a.shape[1] == 1:
                return torch.stack(parts).mean()
            half = a.shape[1] // 2
            a, b = (torch.stack([z[:, 2 * k : 2 * k + 2].amax(1) for k in range(half)], 1) for z in (a, b))

    def pairs(self, a, b):
        n, terms = len(a), []
        if n == 1:
            return torch.zeros(())
        for t in range(a.shape[1]):
            z = torch.cat([a[:, t], b[:, t]])
            s = (z @ z.T).fill_diagonal_(-torch.inf)
            terms += [s[i].logsumexp(0) - s[i, (i + n) % (2 * n)] for i in range(2 * n)]
        return torch.stack(terms).mean()

    def after(self, batch, step):
        self.follow(self.method.average.module, self.method.tower, (step + 1) / (step + 2))


class CREST(Naive):
    """Two paths between regions and attributes, an opinion each and fused by Dempster's rule, and three further terms;
    loops over images, attributes and classes."""

    uncertain = True

    def facts(self, batch):
        """Attributes of the classes of training rows, and which of them each row of the batch has."""
        data = self.method.survey.data
        _, known = data.meta["class_attributes"]
        digits = data.cells_of("digit")
        seen = sorted({digits[i] for i in self.made.rows}, key=data.target_names.index)
        assert len(seen) == 7
        return torch.tensor([known[name] for name in seen]), [seen.index(digits[i]) for i in batch.rows.tolist()]

    def attended(self, queries, keys, head):
        q, k, v = (x @ w.weight.T for x, w in ((queries, head.query), (keys, head.key), (keys, head.value)))
        return torch.stack([((row * k).sum(1) / k.shape[1] ** 0.5).softmax(0) @ v for row in q])

    def paths(self, x):
        """psi of both paths of one image, what its attributes see and its regions read."""
        g = self.method.grounding
        regions, a = x.flatten(1).T, g.words
        v = self.attended(a, regions, g.visual)
        s = a @ g.visual_words.weight.T
        t = self.attended(regions, a, g.attribute)
        h = []
        for row in t:
            scores, best = (g.patterns @ row).topk(4)
            h.append(row + scores.softmax(0) @ g.patterns[best])
        r = a @ g.attribute_words.weight.T
        return (s * v).sum(1), torch.stack([sum(one @ row for row in h) / len(h) for one in r]), v, t

    def opinion_loss(self, e, y, weight):
        alpha, own = e + 1, torch.arange(len(e)) == y
        away = torch.where(own, 1.0, alpha)
        kl = torch.distributions.kl_divergence(*(torch.distributions.Dirichlet(x)
                                                 for x in (away.double(), torch.ones(len(e)).double())))  # fmt: skip
        return torch.digamma(alpha.sum()) - torch.digamma(alpha[y]) + weight * kl.float()

    def fused(self, e, f):
        n = len(e)
        b, c, u, w = e / (e.sum() + n), f / (f.sum() + n), n / (e.sum() + n), n / (f.sum() + n)
        k = sum(b[i] * c[j] for i in range(n) for j in range(n) if i != j)
        belief, unsure = (b * c + b * w + c * u) / (1 - k), u * w / (1 - k)
        return belief * n / unsure

    def loss(self, batch, step):
        z, y = self.facts(batch)
        x = torch.cat(self.views(batch)["image"])
        encoder, n = self.method.tower.encoder, len(x)
        found = encoder.body((x - encoder.mean) / encoder.std)
        made = [self.paths(one) for one in found]
        unit_z = z / z.norm(dim=1, keepdim=True)
        weight = 0.5  # the first of two epochs
        told = agree = 0.0
        unsure = []
        for (p, q, *_), label in zip(made, y, strict=True):
            e, f = ((unit_z @ one).exp().log1p() for one in (p, q))
            told = told + sum(self.opinion_loss(one, label, weight) for one in (e, f, self.fused(e, f))) / n
            u, w = (len(z) / (one.sum() + len(z)) for one in (e, f))
            unsure.append(float(u.detach()) if self.uncertain else 0.0)
            both = ((1 - u) * p + (1 - w) * q) / (2 - u - w) if self.uncertain else (p + q) / 2
            agree = agree + ((both - z[label]) ** 2).mean() / n
        return told + 0.5 * self.contrast([m[2] for m in made], y, unsure) + 0.1 * self.apart(made) + agree

    def contrast(self, v, y, u):
        f, total = [unit(one) for one in v], []
        for i in range(len(f)):
            s = [(f[i] * one).sum(1).mean() / 0.2 for one in f]
            rivals = [j for j in range(len(f)) if y[j] != y[i]]
            mass = sum(1 - u[j] for j in rivals)
            hard = sum(len(rivals) * (1 - u[j]) / mass * s[j].exp() for j in rivals)
            near = [j for j in range(len(f)) if j != i and y[j] == y[i]]
            total.append(sum((1 + hard / s[j].exp()).log() for j in near) / len(near))
        return sum(total) / len(total)

    def apart(self, made):
        bank, rows = self.method.grounding.patterns.detach(), [row for m in made for row in m[3]]
        terms = []
        for row in rows:
            p, q = (((row - bank[k]) ** 2).sum() for k in (bank @ row).topk(2)[1])
            terms.append((p - q + 1).clamp(min=0) + 0.1 * p)
        return sum(terms) / len(terms)


class CRESTPlain(CREST):
    uncertain = False


ROCKET = {"hidden": 16, "dim": 24, "temperature": 0.5, "local_temperature": 0.7}
QUEUE = {"name": "queue", "size": 16, "random_start": True}
MIXED = {"weight": 0.5, "temperature": 0.2, "soft_temperature": 0.3, "rate": 0.9, "text_lr": 0.02, "head_lr": 0.1}
CASES: dict[str, tuple[str, type, dict[str, Any]]] = {
    "simclr": ("simclr", SimCLR, {}),
    "dcl": ("dcl", DCLW, {"sigma": 0.5}),
    "dcl differentiated": ("dcl", DCLWDifferentiated, {"sigma": 0.5, "loss": {"detach": False}}),
    "contrastive-behaviour": ("contrastive-behaviour", Hard, {"alpha": 0.3}),
    "mochi": ("mochi", MoCHi, {"momentum": 0.9, "negatives": {"size": 16, "hard": 4, "mixed": 3, "with_query": 2,
                                                              "start": 0.0}}),
    "swav": ("swav", Swapped, {"prototypes": 12, "queue": 0, "freeze_prototypes": 1, "eps": 0.05}),
    "cacr batch": ("cacr", CACR, {"positives": 2}),
    "cacr queue": ("cacr", CACRQueue, {"form": "queue", "positives": 2, "momentum": 0.9, "negatives": QUEUE}),
    "cacr momentum": ("cacr", CACRTargets, {"form": "momentum", "positives": 1, "momentum": 0.9}),
    "nnclr": ("nnclr", NNCLR, {"queue": 16}),
    "nnclr decoupled": ("nnclr", NNCLRDecoupled, {"queue": 16, "loss": "dcl"}),
    "mcl": ("mcl", MCL, {"temperature": 0.1}),
    "pixpro": ("pixpro", PixPro, {}),
    "beclr": ("beclr", BECLR, {"memory_start": 1.0, "clusters": 2}),
    "groco": ("groco", GroCo, {"draws": 2, "top_k": 3, "steepness": 2.0}),
    "groco nearest": ("groco", TopTen, {"loss": {"name": "nearest", "top_k": 3}}),
    "hydra": ("hydra", HydraViews, {"dim": 16, "gate_width": 8, "gate_hidden": 8}),
    "hydra momentum": ("hydra", HydraMomentum, {"form": "momentum", "beta": 2.0, "dim": 16, "gate_width": 8,
                                                "gate_hidden": 8}),
    "align": ("align", Align, {"temperature": 0.1}),
    "negclip": ("negclip", NegCLIP, {"temperature": 0.9, "images": 2}),
    "clip-rocket": ("clip-rocket", Rocket, ROCKET),
    "clip-rocket sum": ("clip-rocket", RocketSum, {**ROCKET, "mode": "sum"}),
    "barlip": ("clip-rocket", BarLIP, {**ROCKET, "extra": "barlow", "extra_hidden": 12, "extra_dim": 6}),
    "siamlip": ("clip-rocket", SiamLIP, {**ROCKET, "extra": "simsiam", "extra_hidden": 12, "extra_dim": 6}),
    "byolip": ("clip-rocket", BYOLIP, {**ROCKET, "extra": "byol", "extra_hidden": 12, "extra_dim": 6,
                                       "momentum": 0.9}),
    "swalip": ("clip-rocket", SwALIP, {**ROCKET, "extra": "swav"}),
    "mcl-pairs": ("mcl-pairs", MCLPairs, {}),
    "m3col": ("m3col", M3CoL, MIXED),
    "m3col inputs": ("m3col", M3CoLInputs, {**MIXED, "mix": "inputs"}),
    "m3col released": ("m3col", M3CoLReleased, {**MIXED, "official": True}),
    "cwcl": ("cwcl", CWCL, {}),
    "csp": ("csp", CSP, {"untrained": True}),
    "coop": ("coop", CoOp, {"untrained": True}),
    "supremix": ("supremix", SupReMix, {"window": 12.0}),
    "sepclr": ("sepclr", SepCLR, {"background": "twemoji", "salient_weight": 0.3, "null_weight": 0.5,
                                  "entropy_weight": 0.7}),
    "susana": ("susana", SuSana, {"ways": 4, "shots": 3, "queries": 3}),


    "ins": ("ins", INS, {"momentum": 0.9, "queue": 16, "bag_loss": 0.3, "bag_start": 0.25}),
    "abmil": ("abmil", ABMIL, {}),
    "l1-regression": ("l1-regression", L1Regression, {}),
    "cot": ("cot", CoT, {"dim": 16, "augment_from": 0.25, "augment_share": 1.0}),
    "crest": ("crest", CREST, {"dim": 8, "patterns": 6, "anneal_epochs": 2, "each": 3}),
    "crest plain": ("crest", CRESTPlain, {"dim": 8, "patterns": 6, "anneal_epochs": 2, "each": 3, "certainty": False}),
    "simcse": ("simcse", SimCSE, {}),
    "whitenedcse": ("whitenedcse", WhitenedCSE, {}),
    "debcse": ("debcse", DebCSETeacher, {}),
    "dse": ("dse", DSE, {"hidden": 16}),
    "cross-encoder": ("cross-encoder", CrossEncoder, {}),
    "r-drop": ("r-drop", RDrop, {"weight": 3.0}),
    "cvib": ("cvib", CVIB, {"contrast": 0.5, "temperature": 0.1, "beta": 1e-5, "gate_lr": 0.1, "bias_lr": 0.02,
                            "hidden": 16}),
    "moe-embeddings": ("moe-embeddings", MoE, {}),
    "moe-embeddings router": ("moe-embeddings", MoERouted, {"routing": "router", "pooler": "tanh", "router_weight": 0.5,
                                                            "balance_weight": 0.3}),
    "ccp": ("ccp", CCP, {"bank": 6}),
    "cocosoda": ("cocosoda", CoCoSoDa, {"queue": 16, "momentum": 0.9}),
    "multicsr": ("multicsr", MultiCSR, {"phi": 0.3, "frozen_share": 0.1, "mask_duplicates": False}),
    "multicsr released": ("multicsr", MultiCSRReleased, {"phi": 0.3, "frozen_share": 0.1, "official": True,
                                                         "mask_duplicates": False}),
    "space2": ("space2", Space2, {}),
    "grace": ("grace", Grace, {}),
    "bgrl": ("bgrl", Bootstrapped, {"momentum": 0.9, "predictor": 16}),
    "graph-barlow-twins": ("graph-barlow-twins", Decorrelated, {}),
    "gaugllm": ("gaugllm", GAugLLM, {"momentum": 0.9, "predictor": 16, **GAUG}),
    "gaugllm barlow": ("gaugllm", GAugLLMBarlow, {"host": "barlow", **GAUG}),
    "pamc": ("pamc", PamC, PAMC),
    "pamc of nodes": ("pamc", PamCExact, {**PAMC, "against": "nodes"}),
    "meow": ("meow", Meow, {"clusters": "3,8", "prototypes": 0.5, "edge_mask": "0.3,0.2"}),
    "meow adaptive": ("meow", AdaMeow, {"weighting": "learned", "edge_mask": "0.3,0.2"}),
    "csgcl": ("csgcl", CSGCL, {"start": 0, "rise": 2.0, "gamma": 0.75}),
    "sasrec": ("sasrec", SASRec, {}),
    "cl4srec": ("cl4srec", CL4SRec, {"weight": 0.3, "temperature": 0.7}),
    "mclrec joint": ("mclrec", MCLRecJoint, {"joint": True, "weight": 0.3, "temperature": 0.7, "beta": 0.2,
                                             "regularise": 0.4}),
    "ts2vec": ("ts2vec", TS2Vec, {}),
    "contriever": ("contriever", Contriever, {"momentum": 0.9, "normalise": False, "negatives": QUEUE}),
}  # fmt: skip


def without_dropout(method):
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0


@pytest.mark.parametrize("case", CASES)
def test_naive_steps_give_the_same_parameters(case, data_of):
    """SGD with momentum and decay, one step of warm-up, then cosine; three steps."""
    slug, naive, options = CASES[case]
    settings = TrainSettings(
        batch_size=8, steps=RUN, warmup=WARMUP, optimiser="sgd", lr=LR, weight_decay=0.01, schedule="cosine",
        val_every=0, graph_width=16,
        by="columns" if slug in ("align", "cwcl", "negclip", "clip-rocket") else "auto",
        **(SMALL if building.methods.get(slug).layered else {}),  # images of a size that crops and maps differ in
    )  # fmt: skip
    if "mask_duplicates" in building.methods.get(slug).__init__.__annotations__:
        options = options | {"mask_duplicates": False}
    made = building.prepare(slug, data_of(slug), settings, options)
    without_dropout(made.method)
    begun = copy.deepcopy(made.method)
    trainer = engine.trainer_for(made, [], STEPS)
    trainer.fit(made.method, made.loader)
    made.loader.start = 0
    arm = naive(begun.train(), made)
    stepped(arm, made)
    for name, p in made.method.named_parameters():
        expected = dict(begun.named_parameters())[name]
        torch.testing.assert_close(p, expected.detach(), rtol=2e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def stepped(arm, made):
    """The naive loop: views, loss, gradients, SGD with momentum and decay of matrices, memories."""
    rates, state = arm.method.scaled_parameters(), {}
    trained = [p for p in arm.method.parameters() if p.requires_grad]
    for step, batch in zip(range(STEPS), made.loader, strict=False):
        for p in trained:
            p.grad = None
        torch.manual_seed(batch.random_seed)
        arm.loss(batch, step).backward()
        if hasattr(arm, "before_step"):
            arm.before_step(step)
        inside, run, warmup = arm.place(step)
        if inside == 0:
            state.clear()
        share = inside / warmup if inside < warmup else 1.0
        if inside >= warmup:
            share = (1 + math.cos(math.pi * (inside - warmup) / (run - warmup))) / 2
        with torch.no_grad():
            for p in trained:
                if p.grad is None:
                    continue
                g = p.grad + (0.01 * p if p.dim() > 1 else 0)
                state[p] = 0.9 * state[p] + g if p in state else g
                p -= LR * share * rates.get(p, 1.0) * state[p]
        if hasattr(arm, "after"):
            arm.after(batch, step)
