"""Small made-up interactions, and what is counted of a table of them by hand."""

import csv
import math
from collections import Counter, defaultdict


def write(path, rows, header=("user", "item", "timestamp")):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def made_up(rng, users=60, items=24, most=14):
    """Users who walk through a circle of items with a few leaps, in mixed order, times apart."""
    rows = []
    for user in range(users):
        item, time = int(rng.integers(items)), int(rng.integers(1000))
        for _ in range(int(rng.integers(3, most))):
            rows.append((f"u{user}", f"i{item}", time))
            item = (item + 1 if rng.random() < 0.8 else int(rng.integers(items))) % items
            time += int(rng.integers(1, 50))
    return [rows[i] for i in rng.permutation(len(rows))]


def left_out(path):
    """From the file alone: user -> (training items, validation item, test item), in time, leave-one-out."""
    met = defaultdict(list)
    with open(path, newline="") as file:
        for line, row in enumerate(csv.DictReader(file)):
            met[row["user"]].append((float(row["timestamp"]), line, row["item"]))
    found = {}
    for user, rows in met.items():
        items = [item for _, _, item in sorted(rows)]
        if len(items) >= 3:
            found[user] = items[:-2], items[-2], items[-1]
        elif len(items) == 2:
            found[user] = items[:-1], None, items[-1]
    return found


def rank_of(target, scores):
    """From 1; a tie never helps; inf for what has no score."""
    if target not in scores:
        return math.inf
    return 1 + sum(score >= scores[target] for item, score in scores.items() if item != target)


def metrics_of(ranks):
    """Means, counted one by one."""
    n = len(ranks)
    found = {f"hit@{k}": sum(r <= k for r in ranks) / n for k in (1, 5, 10, 20)}
    found |= {f"ndcg@{k}": sum(1 / math.log2(r + 1) for r in ranks if r <= k) / n for k in (1, 5, 10, 20)}
    found["mrr"] = sum(1 / r for r in ranks) / n
    return found | {f"mrr@{k}": sum(1 / r for r in ranks if r <= k) / n for k in (1, 5, 10, 20)}


def by_popularity(divided):
    counts = Counter(item for train, _, _ in divided.values() for item in train)
    return lambda history: counts


def by_neighbours(divided):
    users = defaultdict(set)
    for user, (train, _, _) in divided.items():
        for item in train:
            users[item].add(user)

    def near(a, b):
        return 0.0 if a == b else len(users[a] & users[b]) / math.sqrt(len(users[a]) * len(users[b]))

    known = sorted(users)
    return lambda history: {
        item: sum(near(item, one) for one in sorted(set(history)) if one in users) for item in known
    }
