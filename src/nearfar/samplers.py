"""Which rows make the batch of a step. A sampler is a pure function of seed and number: a run that goes on draws what
an uninterrupted one would have drawn.

    sampler = Permutation().over(Rows(np.arange(40)), batch_size=8, seed=0)
    sampler.rows(3)                                  # sample ids (8,) of the fourth batch

A method says `sampler(stage)`; `fit` binds it to the training rows (`over`). Rows are member-major: of an item's
`members` rows, all first ones come first, then all second ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.mixture import corpus_shares

Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Read = Callable[[np.ndarray, np.random.Generator | None], Any]
Labels = str | np.ndarray
OPTIONS = {"group": "--group", "domain": "--domain", "bag": "--bag", "target": "--target", "label": "--label"}


@dataclass(frozen=True)
class Rows:
    """What a sampler may know of the training rows.

    rows: their sample ids (N,). groups: an integer of every row of the data (by sample id), or None. labels: name ->
    integers of every row, -1 where unknown: the columns of labels, then "target", "domain" and "bag" where there are
    such. tokens: role -> the token ids of all texts (`TokenStore`), for samplers of a stream. alternatives: the number
    of the item of every row, where several rows tell one item (captions of an image), of which one is drawn at a time.
    """

    rows: np.ndarray
    groups: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    tokens: Callable[[str], Any] | None = None
    alternatives: np.ndarray | None = None

    def of(self, labels: Labels) -> np.ndarray:
        """A label of each training row, (N,). labels: a column of labels, a role ("group", "domain", "bag", "target";
        "label" is the first column of labels), or the labels themselves.

        Raises InputError where the data hold no such labels.
        """
        if not isinstance(labels, str):
            if len(labels) != len(self.rows):
                raise InputError(f"A sampler got {len(labels)} labels for {len(self.rows)} training rows.")
            return np.asarray(labels)
        known = dict(self.labels) | ({} if self.groups is None else {"group": self.groups})
        columns = [name for name in self.labels if name not in OPTIONS]
        name = columns[0] if labels == "label" and columns else labels
        if name not in known:
            raise InputError(
                f"This method draws its batches by '{labels}', which the data do not have."
                f"{did_you_mean(labels, list(known))}",
                f"Name the column: {OPTIONS.get(labels, '--label')} COLUMN.",
            )
        return np.asarray(known[name])[self.rows]

    def among(self, rows: np.ndarray) -> Rows:
        """Those of the training rows that are in `rows`."""
        return replace(self, rows=self.rows[np.isin(self.rows, rows)])


class Sampler:
    """What every sampler promises; a subclass writes `bind`, `items` and `rows`.

    members: rows of an item; word: what items are, for readers. identified: whether `rows` gives sample ids; if not,
    nothing is known of the items. negative_groups: a label of each training row where set (`within`): the negatives of
    an item come from its own group alone. left_out: which rows are never drawn, and why, in words.
    """

    members: int = 1
    word: str = "items"
    identified: bool = True
    negative_groups: np.ndarray | None = None
    left_out: str = ""
    table: Rows
    batch_size: int
    seed: int
    since: int
    _only: np.ndarray | None = None
    _size: int | None = None
    _kept: dict[str, tuple[Any, Any]]

    def over(self, table: Rows, batch_size: int, seed: int, since: int = 0) -> Self:
        """The sampler bound to training rows. batch_size: items a batch, unless it prescribes its own; since: the
        number of the first batch of its stage. Raises InputError where it cannot draw from these rows."""
        made = copy.copy(self)
        made._kept = {}
        made.table = table if self._only is None else table.among(self._only)
        if not len(made.table.rows):
            raise InputError("There are no training rows to draw from.")
        batch_size = self._size or batch_size
        made.batch_size, made.seed, made.since = self.prescribed(made.table) or batch_size, seed, since
        made.bind()
        return made

    def within(self, negative_groups: np.ndarray) -> Self:
        """As it is, with a label of each training row: an item's negatives come from its own group alone."""
        made = copy.copy(self)
        made.negative_groups = negative_groups
        return made

    def only(self, rows: np.ndarray) -> Self:
        """As it is, drawing from those of the training rows that are in `rows` (sample ids)."""
        made = copy.copy(self)
        made._only = np.asarray(rows)
        return made

    def sized(self, batch_size: int) -> Self:
        """As it is, with so many items a batch, whatever the batch size of the run."""
        made = copy.copy(self)
        made._size = batch_size
        return made

    def restricted_as(self, other: Sampler) -> Self:
        """As it is, with the rows, the negatives and the batch size to which another one is restricted."""
        made = copy.copy(self)
        made._only, made._size, made.negative_groups = other._only, other._size, other.negative_groups
        return made

    def prescribed(self, table: Rows) -> int | None:
        """Items a batch where the sampler itself says how many; None: as --batch-size says."""
        return None

    def bind(self) -> None:
        """Lays out what follows from `table`, `batch_size` and `seed`."""

    @property
    def items(self) -> int:
        """How many different items it draws from."""
        raise NotImplementedError

    @property
    def sizing(self) -> int:
        """The items by which an automatic batch size and number of steps are chosen."""
        return self.items

    @property
    def epoch_steps(self) -> int:
        """Batches in which every item is seen about once."""
        return max(1, self.sizing // self.batch_size)

    def rows(self, number: int) -> np.ndarray:
        """Sample ids of the batch of a number, (members batch_size,), member-major."""
        raise NotImplementedError

    def completed(self, rows: np.ndarray) -> np.ndarray:
        """The rows as items, member-major: further members as far as there are any, else the row itself."""
        return np.tile(rows, self.members)

    def reading(self, role: str, read: Callable[[str], Read]) -> Read:
        """How what `rows` gives is read. read: role -> how its inputs are read by sample ids."""
        return read(role)

    def kept(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives for a key, made again only where the key changes: an epoch's order, say."""
        if self._kept.get(name, (None,))[0] != key:
            self._kept[name] = (key, make())
        return self._kept[name][1]


class OfItems(Sampler):
    """Items are rows, or groups with `members` rows at least."""

    def __init__(self, members: int = 1):
        self.members = members

    def bind(self) -> None:
        self.lists: list[np.ndarray] = []
        rows, groups = self.table.rows, self.table.groups
        if self.members == 1:
            if self.table.alternatives is not None:
                self.lists = parted(rows, self.table.alternatives)
            return
        if groups is None:
            raise InputError(
                f"This method draws {self.members} members of each group, but the data have no groups.",
                "Name the column with --group COLUMN.",
            )
        self.lists = [g for g in parted(rows, groups) if len(g) >= self.members and groups[g[0]] >= 0]
        if not self.lists:
            raise InputError(
                f"No group of the training rows has {self.members} members.", "Check the column of --group."
            )

    @property
    def items(self) -> int:
        return len(self.lists) if self.lists else len(self.table.rows)

    def of_items(self, labels: np.ndarray) -> np.ndarray:
        """The label of each item from one of each training row; a group has that of its first row."""
        if not self.lists:
            return labels
        place = {int(row): label for row, label in zip(self.table.rows, labels, strict=True)}
        return np.array([place[int(rows[0])] for rows in self.lists])

    def drawn(self, chosen: np.ndarray, *place: int) -> np.ndarray:
        """Rows of the chosen items; which members of a group, is drawn for this place."""
        if not self.lists:
            return self.table.rows[chosen]
        rng = np.random.default_rng([self.seed, *place])
        return np.stack([rng.choice(self.lists[i], self.members, replace=False) for i in chosen], 1).reshape(-1)

    def completed(self, rows: np.ndarray) -> np.ndarray:
        if self.members == 1:
            return rows
        lists = {int(row): group for group in self.lists for row in group}
        partners = []
        for row in rows:
            group = lists.get(int(row), np.array([row]))
            place = int(np.flatnonzero(group == row)[0])
            partners.append(group[(place + np.arange(self.members)) % len(group)])
        return np.stack(partners, 1).reshape(-1)


def parted(rows: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The rows (n,) of each group, one after the other. groups: a number of each sample id."""
    order = rows[np.argsort(groups[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


class Permutation(OfItems):
    """Every row once an epoch, in a seeded order; what does not fill a batch is left out of that epoch."""

    def __init__(self):
        super().__init__()

    def rows(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self.epoch_steps)
        order = self.kept("order", epoch, lambda: np.random.default_rng([self.seed, epoch]).permutation(self.items))
        return self.drawn(order[place * self.batch_size : (place + 1) * self.batch_size], epoch, place)


class Groups(Permutation):
    """Every group once an epoch, each with `members` of its rows, drawn anew. Raises InputError, once bound, where the
    data have no groups, or none with so many rows."""

    def __init__(self, members: int):
        super().__init__()
        self.members = members


class InTurn(OfItems):
    """Each batch holds items of one label; the labels take turns, every item is seen once an epoch, and what does not
    fill a batch of its label is left out. labels: see `Rows.of`; a group of `members` has the label of its first row.

    Raises NearfarError, once bound, where no label fills a batch.
    """

    def __init__(self, labels: Labels, members: int = 1):
        super().__init__(members)
        self.labels = labels

    def bind(self) -> None:
        super().bind()
        self.item_labels = self.of_items(self.table.of(self.labels))
        self.epoch_length = len(self.epoch(0))

    def epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.since, epoch])
        made = single_label_batches(self.item_labels, self.batch_size, rng)
        if not made:
            raise NearfarError(
                f"None of the {len(np.unique(self.item_labels))} groups of the {self.items} items fills a batch of "
                f"{self.batch_size}.",
                "Use a smaller --batch-size, fewer clusters or fewer stages.",
            )
        return made

    @property
    def dropped(self) -> float:
        """The share of the items that no batch of an epoch holds."""
        return 1 - self.epoch_length * self.batch_size / self.items

    def rows(self, number: int) -> np.ndarray:
        epoch, place = divmod(number - self.since, self.epoch_length)
        return self.drawn(self.kept("epoch", epoch, lambda: self.epoch(epoch))[place], epoch, place)


def single_label_batches(labels: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The batches of one epoch in which every batch holds items of one label: sum_g floor(n_g / B) of them.

    Each label's items are permuted and cut to whole batches; the labels take turns (0, 1, 2, ...), each giving a batch
    from the end of its list, until all are used up. labels: of each item, (N,); returns item numbers, (B,) each.
    """
    lists = []
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))
        lists.append([order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)])
    batches: list[np.ndarray] = []
    while any(lists):
        batches += [own.pop() for own in lists if own]
    return batches


class OneOf(OfItems):
    """Each batch holds items of one label (a language, a domain), drawn with probability (n_c / sum n)^alpha of its
    share of the items, normalised; 0 is uniform, 1 proportional. Within an epoch a label's items come in a seeded
    order.

    Labels that do not fill a batch, and items without one (-1), are never drawn. Raises InputError, once bound, where
    no label fills a batch, or no item has one.
    """

    def __init__(self, labels: Labels, alpha: float = 1.0, members: int = 1):
        super().__init__(members)
        self.labels, self.alpha = labels, alpha

    def bind(self) -> None:
        super().bind()
        item_labels = self.of_items(self.table.of(self.labels))
        sizes = {int(c): int((item_labels == c).sum()) for c in np.unique(item_labels[item_labels >= 0])}
        if not sizes:
            raise InputError(f"None of the {self.items:,} items has one of the labels that batches are drawn by.",
                             "Fill the column of the labels, or leave it out.")  # fmt: skip
        self.choices = [np.flatnonzero(item_labels == c) for c, n in sizes.items() if n >= self.batch_size]
        if not self.choices:
            raise InputError(
                f"None of the {len(sizes)} labels that batches are drawn by has {self.batch_size} items.",
                f"Use --batch-size {max(2, *sizes.values())} or less.",
            )
        self.shares = corpus_shares(np.array([len(c) for c in self.choices]), self.alpha)

    @property
    def sizing(self) -> int:
        return sum(len(c) for c in self.choices)

    def labels_of(self, epoch: int) -> np.ndarray:
        """Which label each batch of an epoch is drawn from, (epoch_steps,)."""
        return np.random.default_rng([self.seed, epoch]).choice(len(self.choices), self.epoch_steps, p=self.shares)

    def rows(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self.epoch_steps)
        drawn = self.kept("drawn", epoch, lambda: self.labels_of(epoch))
        which = int(drawn[place])
        turn, inside = divmod(int((drawn[:place] == which).sum()), len(self.choices[which]) // self.batch_size)
        own = [self.seed, epoch, which, turn]
        order = self.kept(f"order {which}", own, lambda: np.random.default_rng(own).permutation(self.choices[which]))
        return self.drawn(order[inside * self.batch_size : (inside + 1) * self.batch_size], epoch, place)


class Balanced(Sampler):
    """Episodes: each batch draws `classes` classes, and `each` rows of every one, without replacement. An item is a
    class, its members are the rows: `rows(k).reshape(each, classes)`.

    labels: see `Rows.of`; rows without a label (-1) are never drawn. Raises InputError, once bound, where fewer classes
    have so many rows.
    """

    word = "classes"

    def __init__(self, labels: Labels, classes: int, each: int):
        if min(classes, each) < 1:
            raise InputError(f"An episode needs at least one class and one row of it. Got {classes} and {each}.")
        self.labels, self.classes, self.members = labels, classes, each

    def prescribed(self, table: Rows) -> int:
        return self.classes

    def bind(self) -> None:
        item_labels = self.table.of(self.labels)
        known, counts = np.unique(item_labels[item_labels >= 0], return_counts=True)
        rich = known[counts >= self.members]
        if len(rich) < self.classes:
            raise InputError(
                f"Batches of {self.classes} classes with {self.members} rows each cannot be drawn: {len(rich)} of the "
                f"{len(known)} classes of the training rows have so many.",
                "Use fewer classes or fewer rows of each.",
            )
        self.lists = [self.table.rows[item_labels == c] for c in rich]
        if poor := len(known) - len(rich):
            self.left_out = (f"of {poor} of the {len(known)} classes, which have fewer than {self.members} rows each "
                             f"({counts.sum() - sum(map(len, self.lists))} in all)")  # fmt: skip

    @property
    def items(self) -> int:
        """As many (class, rows) as the rows of the classes give."""
        return sum(len(rows) // self.members for rows in self.lists)

    def rows(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, number])
        chosen = rng.choice(len(self.lists), self.classes, replace=False)
        drawn = [rng.choice(self.lists[c], self.members, replace=False) for c in chosen]
        return np.stack(drawn, 1).reshape(-1)


def at_most(most: int, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All of the rows, or so many of them drawn without repetition where there are more."""
    return rng.choice(rows, most, replace=False) if len(rows) > most else rows


class WholeBags(Sampler):
    """Each batch holds whole bags: as many as make about `batch_size` rows at the mean size, one at least. Every bag is
    seen once an epoch, in a seeded order; what does not fill a batch is left out of that epoch.

    most: rows of a bag that are drawn where it has more, anew each time. labels: the bag of each row, see `Rows.of`;
    rows without one (-1) are never drawn.
    """

    def __init__(self, most: int, labels: Labels = "bag"):
        self.most, self.labels = most, labels

    def bind(self) -> None:
        bags = self.table.of(self.labels)
        self.lists = [self.table.rows[bags == b] for b in np.unique(bags[bags >= 0])]
        if not self.lists:
            raise InputError("No training row is in a bag.", "Check the column of --bag.")
        mean = np.mean([min(len(rows), self.most) for rows in self.lists])
        self.count = int(np.clip(self.batch_size // mean, 1, len(self.lists)))

    @property
    def items(self) -> int:
        return sum(map(len, self.lists))

    @property
    def epoch_steps(self) -> int:
        return max(1, len(self.lists) // self.count)

    def rows(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self.epoch_steps)
        many, rng = len(self.lists), np.random.default_rng([self.seed, number, 13])
        order = self.kept("order", epoch, lambda: np.random.default_rng([self.seed, epoch]).permutation(many))
        chosen = [self.lists[b] for b in order[place * self.count : (place + 1) * self.count]]
        return np.concatenate([at_most(self.most, rows, rng) for rows in chosen])


class Mixture(Sampler):
    """Batches of several sources, each with its share: new tasks beside a rehearsal buffer, labelled rows beside
    unlabelled ones. parts: (sampler, weight); `only` gives a sampler its rows.

    A source with fewer items than its share gives all it has, and the first ones with room fill the batch.
    """

    def __init__(self, *parts: tuple[Sampler, float]):
        if not parts or any(weight <= 0 for _, weight in parts):
            raise InputError("A mixture needs samplers with weights above 0.")
        if len({sampler.members for sampler, _ in parts}) > 1:
            raise InputError("The samplers of a mixture must draw as many members of each item.")
        self.parts, self.members = parts, parts[0][0].members

    def bind(self) -> None:
        rooms = [part.over(self.table, 1, self.seed).items for part, _ in self.parts]
        weights = np.array([weight for _, weight in self.parts])
        self.counts = shares_of(min(self.batch_size, sum(rooms)), weights, np.array(rooms))
        self.bound = [
            part.over(self.table, int(count), self.seed + 7919 * k, self.since)
            for k, ((part, _), count) in enumerate(zip(self.parts, self.counts, strict=True), 1)
            if count
        ]

    @property
    def items(self) -> int:
        return sum(part.items for part in self.bound)

    def rows(self, number: int) -> np.ndarray:
        drawn = [part.rows(number).reshape(self.members, -1) for part in self.bound]
        return np.concatenate(drawn, 1).reshape(-1)

    def completed(self, rows: np.ndarray) -> np.ndarray:
        return self.bound[0].completed(rows)


class Beside(Mixture):
    """Sources beside each other in every batch, with equal shares, in turn: labelled rows beside unlabelled ones. An
    epoch is that of the longest source, and the shorter ones begin again within it."""

    def __init__(self, *parts: Sampler):
        super().__init__(*((part, 1.0) for part in parts))

    def bind(self) -> None:
        super().bind()
        self.rooms = [part.over(self.table, 1, self.seed).items for part, _ in self.parts]

    @property
    def items(self) -> int:
        return sum(self.rooms)

    @property
    def epoch_steps(self) -> int:
        return max(part.epoch_steps for part in self.bound)

    def rows(self, number: int) -> np.ndarray:
        drawn = [part.rows(number).reshape(self.members, -1) for part in self.bound]
        place = np.concatenate([(np.arange(x.shape[1]) + 0.5) / x.shape[1] for x in drawn])
        return np.concatenate(drawn, 1)[:, np.argsort(place, kind="stable")].reshape(-1)


def shares_of(total: int, weights: np.ndarray, rooms: np.ndarray) -> np.ndarray:
    """`total` divided by weights into whole numbers within `rooms`, (parts,): the largest remainders are rounded up,
    each part gets one at least where `total` allows it, and what a part has no room for goes to the first that has."""
    exact = total * weights / weights.sum()
    counts = np.floor(exact).astype(np.int64)
    for k in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[k] += 1
    for k in np.flatnonzero(counts == 0) if total >= len(counts) else ():
        counts[np.argmax(counts)] -= 1
        counts[k] = 1
    counts = np.minimum(counts, rooms)
    for k in range(len(counts)):
        counts[k] += min(total - counts.sum(), rooms[k] - counts[k])
    return counts


class _OfAnother(Sampler):
    """Batches of another sampler, to whose rows more are added."""

    def __init__(self, base: Sampler | None):
        self.base = base or Permutation()
        self.word = self.base.word

    def prescribed(self, table: Rows) -> int | None:
        return self.base.prescribed(table)

    def bind(self) -> None:
        self.bound = self.base.over(self.table, self.batch_size, self.seed, self.since)

    @property
    def items(self) -> int:
        return self.bound.items

    @property
    def epoch_steps(self) -> int:
        return self.bound.epoch_steps


class Partners(_OfAnother):
    """Items of another sampler, each with a partner for every row: the members are those of the item, then theirs.

    draw: rows (n,) and random numbers -> the partner of each row, (n,); `listed` and `alike` make one.
    """

    def __init__(self, draw: Draw, base: Sampler | None = None):
        super().__init__(base)
        self.draw = draw
        self.members = 2 * self.base.members

    def rows(self, number: int) -> np.ndarray:
        rows = self.bound.rows(number)
        return np.concatenate([rows, self.draw(rows, np.random.default_rng([self.seed, number, 5]))])

    def completed(self, rows: np.ndarray) -> np.ndarray:
        whole = self.bound.completed(rows)
        return np.concatenate([whole, self.draw(whole, np.random.default_rng([self.seed, 5]))])


def listed(rows: np.ndarray, others: np.ndarray, weights: np.ndarray | None = None) -> Draw:
    """A partner from a list of pairs: rows (m,) and their possible partners (m,), with weights (m,) > 0 or alike. A row
    without a pair is its own partner."""
    order = np.argsort(rows, kind="stable")
    rows, others = np.asarray(rows)[order], np.asarray(others)[order]
    total = np.concatenate([[0.0], np.cumsum(np.ones(len(rows)) if weights is None else np.asarray(weights)[order])])

    def draw(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        first, last = np.searchsorted(rows, wanted), np.searchsorted(rows, wanted, side="right")
        aim = total[first] + rng.random(len(wanted)) * (total[last] - total[first])
        place = np.clip(np.searchsorted(total, aim, side="right") - 1, first, np.maximum(last - 1, first))
        found = others[np.minimum(place, len(others) - 1)] if len(others) else wanted
        return np.where(last > first, found, wanted)

    return draw


def alike(rows: np.ndarray, labels: np.ndarray) -> Draw:
    """Another row of the same label, drawn alike; a row that is the only one of its label, or has none (-1), is its own
    partner. rows: (N,) distinct sample ids; labels: of each of them, (N,)."""
    order = np.lexsort((rows, labels))
    ranked, sorted_labels = np.asarray(rows)[order], np.asarray(labels)[order]
    by_row = np.argsort(ranked, kind="stable")

    def draw(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        place = by_row[np.searchsorted(ranked[by_row], wanted)]
        first = np.searchsorted(sorted_labels, sorted_labels[place])
        count = np.searchsorted(sorted_labels, sorted_labels[place], side="right") - first
        step = 1 + (rng.random(len(wanted)) * np.maximum(count - 1, 1)).astype(np.int64)
        other = ranked[first + (place - first + step) % count]
        return np.where((count > 1) & (sorted_labels[place] >= 0), other, wanted)

    return draw


def unlike(rows: np.ndarray, groups: np.ndarray, labels: np.ndarray, power: float = -1.0) -> Draw:
    """A row of the same group with another label: the label is drawn with probability (its rows in the group)^power
    among the group's other ones, then one of its rows alike; -1: rare labels often, 1: as the rows are. Where a group
    has a single label, any row of it.

    rows: (N,) distinct sample ids; groups, labels: of each of them, (N,).
    """
    rows = np.asarray(rows)
    group, label = (np.unique(x, return_inverse=True)[1].reshape(-1) for x in (groups, labels))
    cell, place, count = np.unique(group * (int(label.max(initial=0)) + 1) + label, return_inverse=True,
                                   return_counts=True)  # fmt: skip
    members, starts = rows[np.argsort(place, kind="stable")], np.cumsum(count) - count
    of_cell = cell // (int(label.max(initial=0)) + 1)
    weight = count.astype(np.float64) ** power
    total = np.r_[0.0, np.cumsum(weight)]
    by_row = np.argsort(rows, kind="stable")

    def draw(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        own = place.reshape(-1)[by_row[np.searchsorted(rows[by_row], wanted)]]
        first, last = np.searchsorted(of_cell, of_cell[own]), np.searchsorted(of_cell, of_cell[own], side="right")
        before, room = total[own] - total[first], total[last] - total[first] - weight[own]
        aim = rng.random(len(wanted)) * room
        aim = total[first] + np.where(aim >= before, aim + weight[own], aim)
        found = np.clip(np.searchsorted(total, aim, side="right") - 1, first, last - 1)
        found = np.where(found == own, np.where(own + 1 < last, own + 1, np.maximum(own - 1, first)), found)
        return members[starts[found] + (rng.random(len(wanted)) * count[found]).astype(np.int64)]

    return draw


def near(rows: np.ndarray, labels: np.ndarray, radius: int) -> Draw:
    """Another row of the same label (a document, a recording) at most `radius` places from it, drawn alike; the places
    of a label are counted in the order of the sample ids. A row without such a neighbour, or without a label (-1), is
    its own partner. rows: (N,) distinct sample ids; labels: of each of them, (N,)."""
    rows, labels = np.asarray(rows), np.asarray(labels)
    order = np.lexsort((rows, labels))
    ranked, names = rows[order], labels[order]
    there, cuts = np.arange(len(ranked)), np.flatnonzero(np.diff(names)) + 1
    starts, stops = np.r_[0, cuts], np.r_[cuts, len(ranked)]
    first, last = np.repeat(starts, stops - starts), np.repeat(stops, stops - starts)
    low, high = np.maximum(first, there - radius), np.minimum(last, there + radius + 1)
    low, high = np.where(names < 0, there, low), np.where(names < 0, there + 1, high)
    by_row = np.argsort(ranked, kind="stable")

    def draw(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        place = by_row[np.searchsorted(ranked[by_row], wanted)]
        count = high[place] - low[place] - 1
        step = (rng.random(len(wanted)) * np.maximum(count, 1)).astype(np.int64)
        other = low[place] + step
        other = other + (other >= place)
        return np.where(count > 0, ranked[np.minimum(other, len(ranked) - 1)], wanted)

    return draw


class Neighbours(_OfAnother):
    """Items of another sampler with neighbours of theirs, hop by hop (GraphSAGE): `fanout` (k_1, k_2, ...) takes k_1
    neighbours of each row, k_2 of each of those, with replacement. The members are the row, its k_1 neighbours, then
    the k_2 of the first of them, and so on; a row without neighbours stands for its own.

    starts, flat: neighbours of the row with sample id i are flat[starts[i]:starts[i + 1]] (sample ids).
    """

    def __init__(self, starts: np.ndarray, flat: np.ndarray, fanout: Sequence[int], base: Sampler | None = None):
        if not fanout or min(fanout) < 1:
            raise InputError(f"A fanout has one number above 0 for each hop. Got {tuple(fanout)}.")
        super().__init__(base)
        self.starts, self.flat, self.fanout = np.asarray(starts), np.asarray(flat), tuple(fanout)
        if self.base.members > 1:
            raise InputError("Neighbours are drawn of single rows, not of items with several members.")
        self.members = int(1 + np.cumprod(self.fanout).sum())

    def rows(self, number: int) -> np.ndarray:
        return self.around(self.bound.rows(number), np.random.default_rng([self.seed, number, 5]))

    def completed(self, rows: np.ndarray) -> np.ndarray:
        return self.around(rows, np.random.default_rng([self.seed, 5]))

    def around(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        hops, last = [rows[None]], rows[None]
        for count in self.fanout:
            first, many = self.starts[last], self.starts[last + 1] - self.starts[last]
            place = (rng.random((last.shape[0], count, last.shape[1])) * many[:, None]).astype(np.int64)
            found = np.minimum(first[:, None] + place, max(len(self.flat) - 1, 0))
            near = self.flat[found] if len(self.flat) else place
            last = np.where(many[:, None] > 0, near, last[:, None]).reshape(-1, last.shape[1])
            hops.append(last)
        return np.concatenate(hops).reshape(-1)


class WholeSet(Sampler):
    """All training rows in every batch, in their order: graphs, and what is defined on a whole set."""

    def prescribed(self, table: Rows) -> int:
        return len(table.rows)

    @property
    def items(self) -> int:
        return len(self.table.rows)

    def rows(self, number: int) -> np.ndarray:
        return self.table.rows


class Chunks(Sampler):
    """Chunks of `length` tokens from one long stream of all texts of a role: one stream for each domain, drawn with
    probability (its share of the tokens)^alpha; the grid of chunks shifts from epoch to epoch.

    What it gives are places in the stream, so nothing is known of the items' identity. Raises InputError, once bound,
    where the texts are shorter than one chunk.
    """

    identified = False

    def __init__(self, role: str, length: int, alpha: float = 1.0):
        self.role, self.length, self.alpha = role, length, alpha

    def bind(self) -> None:
        assert self.table.tokens is not None
        self.store = self.table.tokens(self.role)
        lengths = np.diff(self.store.starts)[self.table.rows]
        domains = self.table.of("domain") if "domain" in self.table.labels else np.zeros(len(lengths), np.int64)
        parts = [np.flatnonzero(domains == c) for c in np.unique(domains)]
        totals = np.array([lengths[part].sum() for part in parts])
        if totals.max() < self.length:
            raise InputError(
                f"The texts hold {int(lengths.sum())} tokens in all, fewer than one chunk of {self.length}.",
                "Use a smaller --length, or --stream false.",
            )
        kept = [k for k, total in enumerate(totals) if total >= self.length]
        self.order = self.table.rows[np.concatenate([parts[k] for k in kept])]
        self.totals = totals[kept]
        self.begins = np.concatenate([[0], np.cumsum(self.totals)[:-1]])
        self.shares = corpus_shares(self.totals, self.alpha)

    @property
    def items(self) -> int:
        return int((self.totals // self.length).sum())

    @property
    def sizing(self) -> int:
        return len(self.table.rows)

    def rows(self, number: int) -> np.ndarray:
        """The place in the stream at which each chunk begins, (batch_size,)."""
        epoch = number * self.batch_size // max(self.items, 1)
        offset = int(np.random.default_rng([self.seed, epoch, 3]).integers(self.length))
        rng, places = np.random.default_rng([self.seed, number]), []
        for c in rng.choice(len(self.totals), self.batch_size, p=self.shares):
            room = (self.totals[c] - offset) // self.length
            start = (offset if room else 0) + int(rng.integers(max(room, 1))) * self.length
            places.append(self.begins[c] + start)
        return np.array(places)

    def reading(self, role: str, read: Callable[[str], Read]) -> Read:
        return self.store.stream(self.order, self.length)


__all__ = [
    "Balanced", "Beside", "Chunks", "Draw", "Groups", "InTurn", "Labels", "Mixture", "Neighbours", "OfItems", "OneOf",
    "Partners", "Permutation", "Rows", "Sampler", "WholeSet", "alike", "listed", "shares_of", "single_label_batches",
    "unlike",
]  # fmt: skip
