"""What the engine must equal: float64 loops over pairs, written straight from the definitions."""

import math

import torch

INF = math.inf


def seeded(*shape, seed=0):
    """Normal float64 numbers, the same at every call."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(q, k):
    """(n, m) cosines; a zero vector has cosine 0 with everything."""
    out = torch.zeros(len(q), len(k), dtype=torch.float64)
    for i, a in enumerate(q.double().tolist()):
        for j, b in enumerate(k.double().tolist()):
            size = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
            out[i, j] = sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0
    return out


def squared_distance(q, k):
    return torch.tensor(
        [
            [sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in k.double().tolist()]
            for a in q.double().tolist()
        ],
        dtype=torch.float64,
    )


def log_sum_exp(terms):
    """log of the sum of w e^x over pairs (x, w)."""
    terms = [(x, w) for x, w in terms if w != 0]
    if not terms:
        return -INF
    top = max(x for x, _ in terms)
    total = sum(w * math.exp(x - top) for x, w in terms)
    return top + math.log(total)


def pairs(s, mask, weight, dim):
    """For each row (dim=1) or column (dim=0) the (similarity, weight, row) of the pairs that count."""
    s, mask, weight = s.tolist(), mask.tolist(), weight.tolist()
    n, m = len(s), len(s[0])
    cells = [[(s[i][j], weight[i][j], i) for j in range(m) if mask[i][j]] for i in range(n)]
    if dim == 0:
        cells = [[(s[i][j], weight[i][j], i) for i in range(n) if mask[i][j]] for j in range(m)]
    return cells


def reduction(kind, s, mask, weight, dim, *, scale=1.0, phi=None, u=None, above=None, below=None):
    out = []
    for cells in pairs(s, mask, weight, dim):
        if kind == "logsumexp":
            out.append(log_sum_exp([(scale * x, w) for x, w, _ in cells]))
        elif kind == "sum":
            out.append(sum(w * (x if phi is None else phi(x) if u is None else phi(x, u[i])) for x, w, i in cells))
        elif kind == "count":
            out.append(sum(w for _, w, _ in cells))
        elif kind == "mean":
            total = sum(w for _, w, _ in cells)
            out.append(sum(w * x for x, w, _ in cells) / total if total else 0.0)
        elif kind == "softmaxmean":
            top = log_sum_exp([(scale * x, w) for x, w, _ in cells])
            out.append(sum(w * math.exp(scale * x - top) * x for x, w, _ in cells) if top > -INF else 0.0)
        else:
            inside = [x for x, _, i in cells if (above is None or x > above[i]) and (below is None or x < below[i])]
            out.append((max(inside) if inside else -INF) if kind == "max" else (min(inside) if inside else INF))
    return torch.tensor(out, dtype=torch.float64)
