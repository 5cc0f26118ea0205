"""Each named loss once more: float64 loops over the equation, from plain lists of similarities."""

import math

import torch

from tests.similarity.naive import cosine, log_sum_exp, squared_distance


def lse(values):
    return log_sum_exp([(x, 1.0) for x in values])


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def info_nce(q, k, *, temperature=0.07, symmetric=False):
    s = (cosine(q, k) / temperature).tolist()
    forth = mean(lse(row) - row[i] for i, row in enumerate(s))
    if not symmetric:
        return forth
    t = (cosine(k[: len(q)], q) / temperature).tolist()
    return (forth + mean(lse(row) - row[i] for i, row in enumerate(t))) / 2


def clip(a, b, *, temperature=0.07):
    return info_nce(a, b, temperature=temperature, symmetric=True)


def two_views(a, b, temperature):
    """For each of the 2n anchors: similarity to the positive, and to the 2n - 2 others."""
    z, n = torch.cat([a, b]), len(a)
    s = (cosine(z, z) / temperature).tolist()
    return [
        (row[(i + n) % (2 * n)], [row[j] for j in range(2 * n) if j not in (i, (i + n) % (2 * n))])
        for i, row in enumerate(s)
    ]


def nt_xent(a, b, *, temperature=0.1):
    return mean(lse([p, *negatives]) - p for p, negatives in two_views(a, b, temperature))


def dcl(a, b, *, temperature=0.1, sigma=None):
    rows = two_views(a, b, temperature)
    w = [1.0] * len(rows)
    if sigma is not None:
        close = [math.exp(p * temperature / sigma) for p, _ in rows]
        w = [2 - c / mean(close) for c in close]
    return mean(-w_i * p + lse(negatives) for w_i, (p, negatives) in zip(w, rows, strict=True))


def hcl(a, b, *, temperature=0.5, tau_plus=0.1, beta=1.0):
    out = []
    for p, negatives in two_views(a, b, temperature):
        m = len(negatives)
        if not m:
            out.append(0.0)
            continue
        weights = [math.exp(beta * x) for x in negatives]
        q = sum(w / sum(weights) * math.exp(x) for w, x in zip(weights, negatives, strict=True))
        g = max((q - tau_plus * math.exp(p)) / (1 - tau_plus), math.exp(-1 / temperature))
        out.append(-math.log(math.exp(p) / (math.exp(p) + m * g)))
    return mean(out)


def debiased(a, b, *, temperature=0.5, tau_plus=0.1):
    return hcl(a, b, temperature=temperature, tau_plus=tau_plus, beta=0.0)


def hard_contrastive(a, b, *, temperature=0.3, alpha=0.1):
    def direction(s):
        out = []
        for i, row in enumerate(s):
            others = sorted((x for j, x in enumerate(row) if j != i), reverse=True)
            m = max(1, math.floor(alpha * len(others) + 0.5))
            kept = [x for x in others if x >= others[m - 1] - 1e-12] if others else []
            out.append(lse([row[i], *kept]) - row[i])
        return mean(out)

    return (direction((cosine(a, b) / temperature).tolist()) + direction((cosine(b, a) / temperature).tolist())) / 2


def align(a, b, *, temperature=1.0, smoothing=0.1):
    def direction(s):
        n = len(s)
        return mean(
            -sum(((1 - smoothing) * (i == j) + smoothing / n) * (row[j] - lse(row)) for j in range(n))
            for i, row in enumerate(s)
        )

    return direction((cosine(a, b) / temperature).tolist()) + direction((cosine(b, a) / temperature).tolist())


def siglip(a, b, *, temperature=0.1, bias=-10.0):
    s = (cosine(a, b) / temperature).tolist()
    return mean(
        sum(math.log1p(math.exp(-(1 if i == j else -1) * (x + bias))) for j, x in enumerate(row))
        for i, row in enumerate(s)
    )


def labelled(z, labels, temperature):
    s, y = (cosine(z, z) / temperature).tolist(), labels.tolist()
    for i, row in enumerate(s):
        positives = [row[j] for j in range(len(y)) if j != i and y[j] == y[i] >= 0]
        if positives:
            others = [row[j] for j in range(len(y)) if j != i]
            yield positives, others, [row[j] for j in range(len(y)) if j != i and not y[j] == y[i] >= 0]


def sup_con(z, labels, *, temperature=0.1):
    return mean(lse(others) - mean(positives) for positives, others, _ in labelled(z, labels, temperature))


def ins_contrast(q, k, queue, classes, past, *, temperature=0.07):
    """Over the queries, keys and past keys but the anchor itself; a row of an unknown class has no part."""
    v, c = torch.cat([q, k, queue]), [*classes.tolist(), *classes.tolist(), *past.tolist()]
    out = []
    for i, row in enumerate((cosine(q, v) / temperature).tolist()):
        others = [j for j in range(len(v)) if j != i]
        own = [row[j] for j in others if c[j] == c[i] >= 0]
        if own:
            out.append(lse(row[j] for j in others) - mean(own))
    return mean(out)


def queue_contrast(q, k, queue, *, temperature=0.07):
    return mean(
        lse([p, *s]) - p
        for p, s in zip(
            (cosine(q, k) / temperature).diagonal().tolist(), (cosine(q, queue) / temperature).tolist(), strict=True
        )
    )


def mil_nce(z, labels, *, temperature=0.1):
    return mean(lse(others) - lse(positives) for positives, others, _ in labelled(z, labels, temperature))


def triplet(z, labels, *, margin=0.2, mining="hard"):
    out = []
    for positives, _, enemies in labelled(z, labels, 1.0):
        if not enemies:
            out.append(0.0)
            continue
        p, n = min(positives), max(enemies)
        below = [x for x in enemies if x < p]
        if mining == "semi-hard" and below:
            n = max(below)
        out.append(max(0.0, n - p + margin))
    return mean(out)


def negclip(image, text, *, temperature=0.07):
    """With image - 2 text as the hard texts."""
    n, texts = len(image), torch.cat([text, image - 2 * text])
    forth = (cosine(image, texts) / temperature).tolist()
    back = [[forth[i][j] for i in range(n)] for j in range(n)]  # of the true texts alone
    first, second = (mean(lse(rows[i]) - rows[i][i] for i in range(n)) for rows in (forth, back))
    return (first + second) / 2


def smoothed(s, eps):
    """Cross-entropy of every row of s against (1 - eps) on its own column plus eps / n on each."""
    n = len(s)
    return mean(-sum(((1 - eps) * (i == j) + eps / n) * (row[j] - lse(row)) for j in range(n))
                for i, row in enumerate(s))  # fmt: skip


def rocket_views(a, b):
    return [a, a + 2 * b, a], [b, b, b - a]


def clip_rocket(a, b, *, smoothing=0.1, mode="avg"):
    image, text = rocket_views(a, b)
    s = [[(cosine(x, y) / (0.07 if v == w == 0 else 0.1)).tolist() for w, y in enumerate(text)]
         for v, x in enumerate(image)]  # fmt: skip

    def turned(m):
        return [list(column) for column in zip(*m, strict=True)]

    both = []
    for way in (lambda m: m, turned):
        local = mean(smoothed(way(s[v][w]), smoothing) for v in (1, 2) for w in (1, 2))
        both.append((smoothed(way(s[0][0]), 0.0) + 2 * local) / 3)
    return sum(both) / 2 * (2 if mode == "sum" else 1)


def siamlip(a, b):
    image, text = rocket_views(a, b)
    targets = [a - b, image[1], image[1]], [b, text[2] - a, text[1]]

    def far(p, v):
        return mean(2 - 2 * x for x in cosine(p, v).diagonal().tolist())

    total = far(a, targets[1][0]) + far(b, targets[0][0])
    for v in (1, 2):
        for w in (1, 2):
            total += far(image[v], targets[1][w]) + far(text[v], targets[0][w])
    return total / (2 + 2 * 4)


def barlip(a, b, *, weight=0.005, scale=0.025):
    image, text = rocket_views(a, b)

    def one(x, y):
        n, d, x, y = len(x), x.shape[1], x.tolist(), y.tolist()
        c = [[sum(x[r][i] * y[r][j] for r in range(n)) / n for j in range(d)] for i in range(d)]
        return scale * sum((c[i][j] - 1) ** 2 if i == j else weight * c[i][j] ** 2 for i in range(d) for j in range(d))

    return (one(a, b) + sum(one(image[v], text[w]) for v in (1, 2) for w in (1, 2))) / 5


def swalip(a, b, *, temperature=0.1):
    image, text = (views[1:] for views in rocket_views(a, b))

    def assigned(s):
        q = [[math.exp(x / 0.05) for x in column] for column in zip(*s, strict=True)]  # prototypes x samples
        k, n = len(q), len(q[0])
        everything = sum(map(sum, q))
        q = [[x / everything for x in row] for row in q]
        for _ in range(3):
            q = [[x / sum(row) / k for x in row] for row in q]
            columns = [sum(row[j] for row in q) for j in range(n)]
            q = [[x / columns[j] / n for j, x in enumerate(row)] for row in q]
        return [[n * q[i][j] for i in range(k)] for j in range(n)]

    total = 0.0
    for mine, others in ((image, text), (text, image)):
        for v in (0, 1):
            for w in (0, 1):
                q = assigned(cosine(mine[1 - v], others[1 - w]).tolist())
                s = (cosine(mine[v], others[w]) / temperature).tolist()
                total += mean(-sum(q[i][j] * (x - lse(row)) for j, x in enumerate(row)) for i, row in enumerate(s))
    return total / 8


def cwcl(p, q, *, temperature=0.07, weighted="trained"):
    n = len(p)
    w = [[x / 2 + 0.5 for x in row] for row in cosine(q, q).tolist()]
    total = 0.0
    for who, s in (("trained", cosine(p, q)), ("frozen", cosine(q, p))):
        s = (s / temperature).tolist()
        if weighted in ("both", who):
            total += mean(-sum(w[i][j] / sum(w[i]) * (s[i][j] - lse(s[i])) for j in range(n)) for i in range(n))
        else:
            total += mean(lse(s[i]) - s[i][i] for i in range(n))
    return total


def weighted(costs, tau):
    """sum w c with w = softmax(tau c)."""
    weights = [math.exp(tau * c) for c in costs]
    return sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights) if costs else 0.0


def squared(u, v):
    """(n, m) squared distances of unit vectors."""
    return (2 - 2 * cosine(u, v)).tolist()


def cacr(
    views,
    *,
    alpha=1.0,
    beta=1.0,
    tau_pos=1.0,
    tau_neg=2.0,
    repulsion="euclidean",
    t=2.0,
    tau_plus=0.0,
    detach=False,
    official=False,
):
    v, n = len(views), len(views[0])
    d = {(a, b): squared(views[a], views[b]) for a in range(v) for b in range(v)}
    near = mean(weighted([d[a, b][i][i] for b in range(v) if b != a], tau_pos) for a in range(v) for i in range(n))

    def push(a, b):
        others = [[d[a, b][i][j] for j in range(n) if j != i] for i in range(n)]
        if n < 2:
            return 0.0
        if repulsion == "rbf":
            shares = [[math.exp(-tau_neg * x) for x in row] for row in others]
            return beta * math.log(
                mean(
                    sum(w * math.exp(-t * x) for w, x in zip(ws, row, strict=True)) / sum(ws)
                    for ws, row in zip(shares, others, strict=True)
                )
            )
        sign = -1 if official else 1
        return mean(
            (-beta * weighted(row, -tau_neg) + sign * tau_plus * d[a, b][i][i]) / (1 - tau_plus)
            for i, row in enumerate(others)
        )

    return alpha * near + mean(push(a, b) for a in range(v) for b in range(a + 1, v))


def cacr_queue(queries, keys, queue, *, alpha=1.0, beta=1.0, tau_pos=1.0, tau_neg=2.0, in_batch=True, official=False):
    v, n = len(queries), len(queries[0])
    out = []
    for a in range(v):
        own = [squared(queries[a], k) for k in keys]
        past = squared(queries[0 if official else a], queue)
        batch = squared(queries[a], queries[a])
        for i in range(n):
            near = weighted([own[b][i][i] for b in range(v) if b != a], tau_pos)
            far = past[i] + [batch[i][j] for j in range(n) if j != i and in_batch]
            out.append(alpha * near - beta * weighted(far, -tau_neg))
    return mean(out)


def cacr_targets(queries, targets, *, temperature=1.0, cost="rbf", official=False):
    n, out = len(queries[0]), []
    for t, key in enumerate(targets):
        others = [cosine(q, key).tolist() for a, q in enumerate(queries) if a != t]
        total = 0.0
        for i in range(n):
            far = [math.exp((2 - 2 * c[i][i]) / temperature) for c in others]
            for p, c in zip(far, others, strict=True):
                row = [x / temperature for x in c[i]]
                if cost == "rbf":
                    value = 2 * temperature * (lse(row) - row[i])
                else:
                    value = 1 - c[i][i] - weighted([1 - c[i][j] for j in range(n) if j != i], -1 / temperature)
                total += p / sum(far) * value
        out.append(total if official and cost == "euclidean" else total / max(n, 1))
    return mean(out)


def simple(a, b, *, weight=None, alpha=None):
    def direction(s):
        out = []
        for i, row in enumerate(s):
            others = sorted((x for j, x in enumerate(row) if j != i), reverse=True)
            if alpha is not None and others:
                m = max(1, math.floor(alpha * len(others) + 0.5))
                others = [x for x in others if x >= others[m - 1] - 1e-12]
            out.append((mean(others) if weight is None else weight * sum(others)) - row[i])
        return mean(out)

    return (direction(cosine(a, b).tolist()) + direction(cosine(b, a).tolist())) / 2


def soft_nearest_neighbour(z, labels, *, temperature=1.0):
    y, out = labels.tolist(), []
    d = squared_distance(z, z).tolist()
    for i, row in enumerate(d):
        positives = [-row[j] / temperature for j in range(len(y)) if j != i and y[j] == y[i] >= 0]
        if positives:
            out.append(lse([-row[j] / temperature for j in range(len(y)) if j != i]) - lse(positives))
    return mean(out)


def team_up(a, b, strength, *, temperature=0.4, gamma=1.0):
    z, n = torch.cat([a, b]), len(a)
    lift = (gamma * torch.cat([strength, strength]).double() / temperature).tolist()
    s = (cosine(z, z) / temperature).tolist()
    return mean(
        lse([s[i][j] + lift[j] for j in range(2 * n) if j != i]) - s[i][(i + n) % (2 * n)] - lift[i]
        for i in range(2 * n)
    )


def uniformity(z, *, t=2.0):
    s, n = cosine(z, z).tolist(), len(z)
    return math.log(mean(math.exp(-t * (2 - 2 * s[i][j])) for i in range(n) for j in range(n) if i != j))


def align_uniform(a, b, *, alpha=2.0, t=2.0, weight=1.0):
    lengths = [(p > 0) + (q > 0) for p, q in zip(a.norm(dim=1).tolist(), b.norm(dim=1).tolist(), strict=True)]
    close = mean(
        (size - 2 * x) ** (alpha / 2) for size, x in zip(lengths, cosine(a, b).diagonal().tolist(), strict=True)
    )
    return close + weight * (uniformity(a, t=t) + uniformity(b, t=t)) / 2


def barlow_twins(a, b, *, weight=0.005, eps=1e-5):
    n, d = a.shape

    def standard(z):
        out = []
        for column in z.double().T.tolist():
            m = mean(column)
            out.append([(x - m) / math.sqrt(mean((y - m) ** 2 for y in column) + eps) for x in column])
        return out

    x, y = standard(a), standard(b)
    c = [[sum(x[i][r] * y[j][r] for r in range(n)) / n for j in range(d)] for i in range(d)]
    return sum((1 - c[i][i]) ** 2 if i == j else weight * c[i][j] ** 2 for i in range(d) for j in range(d))


def vicreg(a, b, *, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4):
    n, d = a.shape
    total = invariance * mean((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    for z in (a, b):
        columns = [[x - mean(column) for x in column] for column in z.double().T.tolist()]
        c = [[sum(p * q for p, q in zip(u, v, strict=True)) / (n - 1) for v in columns] for u in columns]
        total += variance / 2 * mean(max(0.0, 1 - math.sqrt(c[i][i] + eps)) for i in range(d))
        total += covariance / d * sum(c[i][j] ** 2 for i in range(d) for j in range(d) if i != j)
    return total


def byol(p, z):
    return mean(2 - 2 * x for x in cosine(p, z).diagonal().tolist())


def cosine_regression(a, b, score):
    s = cosine(a, b).tolist()
    return mean((s[i][i] - float(score[i])) ** 2 for i in range(len(a)))


def cosent(a, b, score, *, temperature=0.05):
    s = (cosine(a, b) / temperature).tolist()
    n = range(len(a))
    return lse([0.0, *(s[j][j] - s[i][i] for i in n for j in n if score[i] > score[j])])


def magnified(kind, d):
    return {"none": 1.0, "linear": abs(d) + 1, "squared": d * d + 1, "inverse": 1 / (abs(d) + 1),
            "inverse-squared": 1 / (d * d + 1)}[kind]  # fmt: skip


def supremix_anchor(i, z, y, *, shares=None, window=5.0, temperature=0.3, weight="linear", never=()):
    """(loss, positives) of an anchor, each mixture made; z unit rows, y numbers; never: pairs that are no negatives."""
    cells, positives = [], []
    for k in range(len(z)):
        if k == i:
            continue
        s = float(z[i] @ z[k]) / temperature
        if y[k] == y[i]:
            positives.append(s)
            cells.append((s, 1.0))
        elif (i, k) not in never:
            cells.append((s, magnified(weight, y[i] - y[k])))
            if shares is not None:
                a = float(shares[i, k])
                label = a * y[i] + (1 - a) * y[k]
                made = a * z[i] + (1 - a) * z[k]
                cells.append((float(z[i] @ made) / temperature, magnified(weight, y[i] - label)))
    for j in range(len(z)):
        for k in range(len(z)):
            if window and y[j] < y[i] < y[k] and y[i] - y[j] < window and y[k] - y[i] < window:
                a = (y[k] - y[i]) / (y[k] - y[j])
                s = float(z[i] @ (a * z[j] + (1 - a) * z[k])) / temperature
                positives.append(s)
                cells.append((s, 1.0))
    return (log_sum_exp(cells) - mean(positives) if positives else None), len(positives)


def supremix(z, target, **options):
    z, y = z.double(), target.double().tolist()
    u = torch.stack([row / row.norm() if row.norm() > 0 else row for row in z])
    return mean(x for x in (supremix_anchor(i, u, y, **options)[0] for i in range(len(u))) if x is not None)


def soft_permutation(x, steepness=1.0):
    """P (n x n) as lists: input r ends at rank c, by the whole matrix of every layer of the odd-even network."""
    n, x = len(x), list(x)
    p = [[float(r == c) for c in range(n)] for r in range(n)]
    for layer in range(n):
        for q in range(layer % 2, n - 1, 2):
            alpha = math.atan(steepness * (x[q + 1] - x[q])) / math.pi + 0.5
            x[q], x[q + 1] = alpha * x[q] + (1 - alpha) * x[q + 1], (1 - alpha) * x[q] + alpha * x[q + 1]
            for row in p:
                row[q], row[q + 1] = (alpha * row[q] + (1 - alpha) * row[q + 1],
                                      (1 - alpha) * row[q] + alpha * row[q + 1])  # fmt: skip
    return x, p


def group_ordering(negatives, positives, steepness=1.0):
    """Of one anchor, from lists of similarities."""
    k = len(negatives)
    if not k or not positives:
        return 0.0
    p = soft_permutation([*sorted(negatives), *sorted(positives)], steepness)[1]
    total = 0.0
    for r, row in enumerate(p):
        u = min(1.0, max(0.0, sum(row[:k])))
        total -= max(-100.0, math.log(max(u if r < k else 1 - u, 1e-300)))
    return total / len(p)


def groco(views, *, top_k=10, steepness=1.0, targets=None, never=()):
    """never: pairs of items that are no negatives of each other."""
    out = []
    for a, view in enumerate(views):
        own = cosine(view, view).tolist()
        other = [cosine(view, views[b]).tolist() for b in range(targets or len(views)) if b != a]
        for i in range(len(view)):
            far = sorted(own[i][j] for j in range(len(view)) if j != i and (i, j) not in never)
            out.append(group_ordering(far[len(far) - top_k if len(far) > top_k else 0 :],
                                      [s[i][i] for s in other], steepness))  # fmt: skip
    return mean(out)


def filtered(q, k, g):
    """Cosine of g * q and g * k, lists of numbers; 0 where either is nothing."""
    a, b = [x * y for x, y in zip(g, q, strict=True)], [x * y for x, y in zip(g, k, strict=True)]
    size = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0


def hydra(q, k, gates, labels, partners, *, temperature=0.1, reduction="pairs", subtract=None, own=False, never=()):
    def length(x):
        return math.sqrt(sum(v * v for v in x)) or 1.0

    q, k, gates, y, y2 = (x.tolist() for x in (q, k, gates, labels, partners))
    terms, anchors = [], []
    for i in range(len(q)):
        if y[i] < 0:
            continue
        s = []
        for one in k:
            if subtract is None:
                s.append(filtered(q[i], one, gates[i]) / temperature)
            else:
                lengths = length(q[i]) * length(one)
                s.append(sum((g * g - subtract) * a * b for g, a, b in zip(gates[i], q[i], one, strict=True))
                         / lengths / temperature)  # fmt: skip
        there = [j for j in range(len(k)) if y[j] >= 0 and not (own and j == i)]
        far = [s[j] for j in there if y[j] not in (y[i], y2[i]) and (i, j) not in never]
        mine = [lse([s[j], *far]) - s[j] for j in there if y[j] == y2[i] >= 0]
        terms += mine
        anchors.append(sum(mine) / (len(mine) + 1e-6))
    return mean(terms if reduction == "pairs" else anchors)


def tree_contrast(a, b, labels, *, temperature=0.07):
    """Two heads over the same vectors: scores 1 / (1 + |y - y'|), and 1 for equal labels, 0 for others."""
    z, y, n = torch.cat([a, b]), labels.tolist() * 2, len(a)
    s, total = (cosine(z, z) / temperature).tolist(), 0.0
    for graded in (True, False):
        for i in range(2 * n):
            others = [j for j in range(2 * n) if j != i]
            w = [1 / (1 + abs(y[i] - y[j])) if graded else float(y[i] == y[j]) for j in others]
            below = lse([s[i][j] for j in others])
            total -= sum(v * (s[i][j] - below) for v, j in zip(w, others, strict=True)) / sum(w) / (2 * n)
    return total * temperature / 0.07


def inner_rows(a, b, temperature=1.0, similarity="dot"):
    """Of each row of (a; b): the score of its positive, and those of its negatives."""
    v = [*a, *b]
    if similarity == "cos":
        v = [x / x.norm() for x in v]
    rows = []
    for i, x in enumerate(v):
        positive = (i + len(a)) % len(v)
        others = [j for j in range(len(v)) if j not in (i, positive)]
        rows.append((x @ v[positive] / temperature, [x @ v[j] / temperature for j in others]))
    return rows


def pair_contrast(a, b, temperature=1.0, similarity="dot"):
    rows = inner_rows(a, b, temperature, similarity)
    return sum(torch.logsumexp(torch.stack([p, *n]), 0) - p for p, n in rows) / len(rows)


def contrast_regulariser(a, b, temperature=1.0, whole=False):
    """MCLRec's R, row by row; whole: with the smallest positive and the largest negative of the batch."""
    rows = inner_rows(a, b, temperature)
    least, most = min(p for p, _ in rows), max(max(n) for _, n in rows)
    first = second = 0.0
    for p, n in rows:
        one, top = (least, most) if whole else (p, max(n))
        low, high = min(one, top), max(one, top)
        first = first + torch.relu(p - low) / len(rows)
        second = second + sum(torch.relu(high - x) for x in n) / len(n) / len(rows)
    return first + second
