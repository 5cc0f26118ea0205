"""What experts say of the nodes of a graph, and which nodes belong together: by words, a language model, or a file.

The prompts are the library's own; those of GAugLLM were not released.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import InputError, did_you_mean
from nearfar.methods.language_models import LanguageModel
from nearfar.sources.raw import column_of, filled, plain_values
from nearfar.sources.storage import cache_dir
from nearfar.sources.tables import read_table
from nearfar.text_graphs import (
    EXPERTS,
    LEAST,
    MOST,
    EdgePlan,
    base_edges,
    candidates,
    common_neighbours,
    expert_texts,
    pair_cosines,
    pairs_in,
    smoothed,
    text_features,
    verdicts,
)

VERDICT = "EDGE"
TOKENS, AT_ONCE = 128, 16  # of an answer; prompts at once
LENGTH, NEAR = 120, 5  # words of a text in a prompt; neighbours whose texts stand in it
COLUMNS = "Columns: node, expert (IDR, SAS, SAR, or EDGE), text (of EDGE: 1 or 0), other (of EDGE: the candidate)."
ASK = {
    "IDR": "{own}\n\nFrom this text alone, say in one line which class it belongs to{classes} and why.\nAnswer:",
    "SAS": "{own}\n\nIts neighbours:\n{near}\n\nSum up the text together with its neighbours in one line.\nAnswer:",
    "SAR": "{own}\n\nIts neighbours:\n{near}\n\nIn view of its neighbours, say in one line which class the text "
    "belongs to{classes} and why.\nAnswer:",
    VERDICT: "{own}\n\nIt has {many} neighbours. Candidates:\n{near}\n\nShould the text be connected to each of them? "
    "One digit for each in their order, 1 for yes, 0 for no, between blanks.\nAnswer:",
}


@dataclass
class Said:
    """contents: of each expert the texts of all nodes. told: where they come from."""

    contents: dict[str, list[str]]
    plan: EdgePlan
    told: dict[str, Any] = field(default_factory=dict)


def said_by(
    experts: str,
    texts: Sequence[str],
    edges: Tensor,
    keys: Sequence[str],
    *,
    classes: str | None = None,
    most: int = TOKENS,
    at_once: int = AT_ONCE,
) -> Said:
    """experts: "words", the folder of a language model, or a file of answers. keys: the ids of the nodes. The rest is
    for a language model. Raises InputError for what has no effect."""
    folder = Path(experts)
    if experts != "words" and folder.is_dir():
        return by_model(texts, edges, LanguageModel(folder, at_once), classes, most)
    given = {"classes": classes, "expert-tokens": most, "expert-batch": at_once}
    idle = {"classes": None, "expert-tokens": TOKENS, "expert-batch": AT_ONCE}
    for name in (name for name, value in given.items() if value != idle[name]):
        raise InputError(f"--{name} has no effect: no language model is asked.",
                         "Name one (--experts FOLDER), or leave it out.")  # fmt: skip
    return by_words(texts, edges) if experts == "words" else by_file(texts, edges, keys, folder)


def by_words(texts: Sequence[str], edges: Tensor, contents: dict[str, list[str]] | None = None) -> Said:
    """Experts without a language model (`text_graphs.expert_texts`), and verdicts by words and common neighbours.
    contents: where others have said them."""
    x = text_features(texts)
    apart, like = candidates(smoothed(x, edges), edges)
    pairs = [pairs_in(apart), pairs_in(like)]
    both = torch.cat(pairs, 1)
    yes = verdicts(pair_cosines(x, both), common_neighbours(edges, both, len(texts)))
    made = contents or expert_texts(texts, edges)
    return Said(made, planned(edges, apart, like, *yes.split([pairs[0].shape[1], pairs[1].shape[1]])))


def planned(edges: Tensor, apart: Tensor, like: Tensor, apart_yes: Tensor, like_yes: Tensor) -> EdgePlan:
    """The plan of verdicts in the order of `pairs_in`."""
    found = [(torch.zeros_like(lists, dtype=torch.bool), yes) for lists, yes in ((apart, apart_yes), (like, like_yes))]
    for (made, yes), lists in zip(found, (apart, like), strict=True):
        made[lists >= 0] = yes
    return EdgePlan(base_edges(edges, apart), apart, like, found[0][0], found[1][0])


# -- a language model -------------------------------------------------------------------------------------------------


def short(text: str) -> str:
    """The beginning of a text, for a prompt."""
    return " ".join(text.split()[:LENGTH])


def prompts(
    expert: str, texts: Sequence[str], near: Sequence[Sequence[int]], classes: str | None, degrees: Sequence[int] = ()
) -> list[str]:
    """What a language model is asked of each node. near: whose texts it is told; classes: among which it may choose;
    degrees: how many neighbours each node has, where it is told (default: as many as `near` names)."""
    among = f" ({classes})" if classes else ""
    made = []
    for text, others, many in zip(texts, near, degrees or [len(own) for own in near], strict=True):
        listed = "\n".join(f"{k + 1}. {short(texts[u])}" for k, u in enumerate(others)) or "none"
        made.append(ASK[expert].format(own=f"Text: {short(text)}", near=listed, classes=among, many=many))
    return made


def by_model(texts: Sequence[str], edges: Tensor, model: LanguageModel, classes: str | None, most: int) -> Said:
    """Texts and verdicts of a language model, which is asked once for each node and expert, and once for each node with
    candidates. A verdict that it does not give is 0, and counted."""
    near = neighbours(edges, len(texts))
    said = {"ORI": list(texts)}
    for expert in ("IDR", "SAS", "SAR"):
        asked = prompts(expert, texts, [own[:NEAR] for own in near], classes)
        said[expert] = model.answers(asked, most=most, what=f"texts of {expert}")
    made = by_words(texts, edges, said)
    plan = made.plan
    listed = [[u for u in row if u >= 0] for row in torch.cat([plan.apart, plan.like], 1).tolist()]
    nodes = [v for v, row in enumerate(listed) if row]
    asked = [prompt for v, prompt in enumerate(prompts(VERDICT, texts, listed, None, [*map(len, near)]))
             if listed[v]]  # fmt: skip
    answers = model.answers(asked, most=4 * (2 * MOST), what="verdicts")
    lacking = 0
    plan.apart_yes, plan.like_yes = torch.zeros_like(plan.apart_yes), torch.zeros_like(plan.like_yes)
    for v, answer in zip(nodes, answers, strict=True):
        digits = [one == "1" for one in digits_of(answer)][: len(listed[v])]
        lacking += len(listed[v]) - len(digits)
        yes = torch.tensor(digits + [False] * (len(listed[v]) - len(digits)))
        first = int((plan.apart[v] >= 0).sum())
        plan.apart_yes[v, :first] = yes[:first]
        plan.like_yes[v, : len(yes) - first] = yes[first:]
    return Said(said, plan, {"experts": f"written by {model.folder.name}", "verdicts_lacking": lacking})


def digits_of(answer: str) -> list[str]:
    """The verdicts in an answer: digits between blanks, or one behind the number of each line ("2. 1")."""
    return re.findall(r"(?m)^\s*\d+[.):]\s*([01])\b", answer) or re.findall(r"\b[01]\b", answer)


def neighbours(edges: Tensor, count: int) -> list[list[int]]:
    """Whom each node points to."""
    found: list[list[int]] = [[] for _ in range(count)]
    for a, b in torch.unique(edges, dim=1).T.tolist():
        found[a].append(b)
    return found


# -- a file of answers ------------------------------------------------------------------------------------------------


def by_file(texts: Sequence[str], edges: Tensor, keys: Sequence[str], path: Path) -> Said:
    """Texts and verdicts from a table; what it does not hold at all is said by words. Rows of nodes that the graph does
    not have are counted. Candidates are those of the verdicts: neighbours are D, others N, at most 10 each.

    Raises InputError for a file that is no such table, an unknown expert, a text that stands twice, nodes without the
    text of an expert, a verdict that is none, and a node that is its own candidate.
    """
    number = {key: k for k, key in enumerate(keys)}
    contents, edges_said, left = read_answers(path, number)
    for expert, held in contents.items():
        lacking = [key for key, k in number.items() if k not in held]
        if lacking:
            raise InputError(f"{path}: {len(lacking):,} nodes have no text of {expert}, the first '{lacking[0]:.60}'.",
                             "Every node needs IDR, SAS and SAR, or none does.")  # fmt: skip
    given = {e: [held[k] for k in range(len(keys))] for e, held in contents.items()}
    said = by_words(texts, edges, {"ORI": list(texts)} | given if given else None)
    told = {"experts": path.name if given else "words", "verdicts": path.name if edges_said else "words"}
    if edges_said:
        said.plan = plan_of(edges, len(keys), edges_said)
    return Said(said.contents, said.plan, told | ({"answers_of_other_nodes": left} if left else {}))


def read_answers(
    path: Path, number: dict[str, int]
) -> tuple[dict[str, dict[int, str]], dict[tuple[int, int], bool], int]:
    """Texts by expert and node, verdicts by pair of nodes, and how many rows name a node that there is not."""
    raw = read_table(path, cache_dir() / "answers of experts", False) if path.is_file() else None
    if raw is None:
        raise InputError(f"{path} is not a table of answers.", f"Save csv, jsonl or parquet. {COLUMNS}")
    lacking = [name for name in ("node", "expert", "text") if name not in raw.table.column_names]
    if lacking:
        raise InputError(f"{path} has no column '{lacking[0]}'.", COLUMNS)
    names = ["node", "expert", "text", *(["other"] if "other" in raw.table.column_names else [])]
    columns = [[filled(v) for v in plain_values(column_of(raw.table, n, slice(0, len(raw.table))))] for n in names]
    contents: dict[str, dict[int, str]] = {}
    edges: dict[tuple[int, int], bool] = {}
    left = 0
    for row, (node, expert, text, *other) in enumerate(zip(*columns, strict=True), 1):
        if expert not in (*ASK, "ORI"):
            raise InputError(
                f"{path}, row {row}: there is no expert '{expert:.40}'.{did_you_mean(expert, ASK)}", COLUMNS
            )
        ends = [number.get(one, -1) for one in (node, *(other if expert == VERDICT else []))]
        if min(ends) < 0:
            left += 1
        elif expert == VERDICT:
            edges[pair_of(path, row, ends)] = verdict_of(path, row, text)
        elif expert != "ORI":
            if ends[0] in contents.setdefault(expert, {}):
                raise InputError(f"{path}, row {row}: '{node:.60}' has two texts of {expert}.", "Keep one of them.")
            contents[expert][ends[0]] = text
    if left == len(columns[0]):
        raise InputError(f"{path}: no row names a node of this graph.", "The column 'node' holds the ids of the nodes.")
    return {e: contents.get(e, {}) for e in EXPERTS if e != "ORI"} if contents else {}, edges, left


def pair_of(path: Path, row: int, ends: Sequence[int]) -> tuple[int, int]:
    """The node and its candidate."""
    if len(ends) < 2 or ends[0] == ends[1]:
        raise InputError(f"{path}, row {row}: a verdict needs another node in 'other'.", COLUMNS)
    return ends[0], ends[1]


def verdict_of(path: Path, row: int, text: str) -> bool:
    """1 or 0, as a number may be written."""
    if text.strip() not in ("0", "1", "0.0", "1.0"):
        raise InputError(f"{path}, row {row}: the verdict is '{text:.40}'.", "Write 1 or 0.")
    return float(text) == 1


def plan_of(edges: Tensor, count: int, said: Mapping[tuple[int, int], bool]) -> EdgePlan:
    """The plan of verdicts that were given, in their order."""
    joined = set(map(tuple, torch.unique(edges, dim=1).T.tolist()))
    lists = [[([], []) for _ in range(count)] for _ in range(2)]
    for (v, u), yes in said.items():
        who, what = lists[(v, u) not in joined][v]
        if len(who) < MOST:
            who.append(u)
            what.append(yes)
    tables = []
    for place, own in enumerate(lists):
        table, yes = torch.full((count, MOST), -1), torch.zeros(count, MOST, dtype=torch.bool)
        for v, (who, what) in enumerate(own):
            if len(who) >= (LEAST if place == 0 else 1):
                table[v, : len(who)], yes[v, : len(who)] = torch.tensor(who), torch.tensor(what)
        tables.append((table, yes))
    (apart, apart_yes), (like, like_yes) = tables
    return EdgePlan(base_edges(edges, apart), apart, like, apart_yes, like_yes)
