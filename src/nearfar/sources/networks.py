"""Graphs from files: a folder with nodes and edges, GraphML, GEXF, node-link JSON, and what PyTorch Geometric saves.

A graph becomes a table, a row a node: its id, what is known of it, and of each relation the ids of the nodes that it
points to. Rows may so be left out, limited and divided as those of any table.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar.errors import InputError
from nearfar.sources.listing import open_regular
from nearfar.sources.raw import Problem, Raw, column_of, filled, plain_values, whole_numbers
from nearfar.sources.roles import named_beside, plain_name
from nearfar.sources.scan import place
from nearfar.sources.splits import UNUSED
from nearfar.sources.tables import check_names, file_digest, raw_table, read_table, stored, text_file

NODE, EDGES, FEATURES = "node", "edges", "features"
NODE_FILES, EDGE_FILES = {"nodes", "node", "vertices"}, {"edges", "edge", "links", "relations"}
_ENDS = (("source", "target"), ("src", "dst"), ("from", "to"), ("head", "tail"), ("u", "v"))
_IDS = ("id", "node", "node_id", "name", "key")
_RELATION, _KIND = ("relation", "type", "edge_type", "label"), ("type", "kind", "node_type")
_NO_FEATURE = re.compile(r"(split|label)_\d+")  # further public splits, and the columns of a y that has several
_LINKED = re.compile(r'"(?:links|edges)"\s*:\s*\[')
MOST_ALONE = 10  # nodes that may all have a class of their own
HEAD = 1 << 20  # signs in which a node-link file shows itself


def is_graph(files: Iterable[str]) -> bool:
    """Whether a folder has a table of edges beside one of nodes, or alone."""
    names = {Path(file).stem.casefold() for file in files if len(Path(file).parts) == 1}
    return bool(names & EDGE_FILES)


def read_folder(path: Path, files: Sequence[str], cache: Path, skip: bool) -> Raw:
    """nodes.csv (id and anything else) and edges.csv (source, target, perhaps a relation), or tables of other endings.

    Raises InputError for an edge of a node that is not there (unless `skip`: these are left out and counted), for an id
    that stands twice, and for a table of edges without two ends.
    """
    own = [Path(file) for file in files if len(Path(file).parts) == 1]
    edge_file = next(file for file in own if file.stem.casefold() in EDGE_FILES)
    node_file = next((file for file in own if file.stem.casefold() in NODE_FILES), None)
    ends = _table(path / edge_file, cache, skip)
    pairs, relations = _pairs(ends)
    if node_file is None:
        pairs = _as_written(pairs, set())
        ids = list(dict.fromkeys(x for pair in pairs for x in pair))
        nodes = _bare(path, ids, cache, ends.fingerprint)
    else:
        nodes = _table(path / node_file, cache, skip)
        ids = _ids(nodes)
        pairs = _as_written(pairs, set(ids))
    known = set(ids)
    problems = _unknown(ends, pairs, known, skip)
    kept = [(a, b, r) for (a, b), r in zip(pairs, relations, strict=True) if a in known and b in known]
    raw = _with_edges(nodes, ids, kept, f"{nodes.fingerprint}:{ends.fingerprint}", cache, [*ends.problems, *problems])
    raw.notes += _unused(edge_file.name, _further(ends))
    return raw


def _table(path: Path, cache: Path, skip: bool) -> Raw:
    found = read_table(path, cache, skip)
    if found is None:
        raise InputError(f"{path} is not a table.", "Save nodes and edges as csv, tsv, jsonl or parquet.")
    if not len(found.table):
        raise InputError(f"{path} holds no rows.", "A graph needs edges.")
    return found


def _cells(raw: Raw, column: str) -> list[str]:
    return [filled(v) for v in plain_values(column_of(raw.table, column, slice(0, len(raw.table))))]


def _named(columns: Iterable[str], names: Sequence[str]) -> str | None:
    lower = {plain_name(column): column for column in columns}
    return next((lower[name] for name in names if name in lower), None)


def _visible(raw: Raw) -> list[str]:
    return [name for name in raw.table.column_names if not name.startswith("__")]


def _pairs(raw: Raw) -> tuple[list[tuple[str, str]], list[str]]:
    """Ends and relation of each edge. The ends are columns of known names, else the first two."""
    ends, relation = _ends(raw)
    names = _cells(raw, relation) if relation else [EDGES] * len(raw.table)
    return list(zip(*(_cells(raw, end) for end in ends), strict=True)), [n or EDGES for n in names]


def _ends(raw: Raw) -> tuple[tuple[str, ...], str | None]:
    columns = _visible(raw)
    ends = next(((a, b) for names in _ENDS if (a := _named(columns, names[:1])) and (b := _named(columns, names[1:]))),
                tuple(columns[:2]))  # fmt: skip
    if len(ends) < 2:
        raise InputError(f"{raw.path} has {len(columns)} column; an edge has two ends.",
                         "Name the columns: source,target.")  # fmt: skip
    return ends, _named([c for c in columns if c not in ends], _RELATION)


def _further(raw: Raw) -> list[str]:
    """Columns of a table of edges that are neither ends nor the relation."""
    ends, relation = _ends(raw)
    return [name for name in _visible(raw) if name not in (*ends, relation)]


def _unused(where: str, names: Sequence[str]) -> list[str]:
    """A note on what is known of the edges and not used."""
    return [f"{where}: {', '.join(names)} of the edges {'are' if len(names) > 1 else 'is'} not used"] if names else []


def _as_written(pairs: list[tuple[str, str]], known: set[str]) -> list[tuple[str, str]]:
    """Ends with 1.0 as 1 where they are whole numbers that are no ids as they stand: a column that lacks an end is
    written with fractions."""
    ends = [end for pair in pairs for end in pair]
    if known.issuperset(ends):
        return pairs
    whole = whole_numbers(ends)
    return list(zip(whole[::2], whole[1::2], strict=True))


def _where(raw: Raw, row: int) -> str:
    """A row of a table, for messages."""
    file, number, unit = place(raw, row)
    return f"{file}, {unit} {number}"


def _ids(raw: Raw) -> list[str]:
    column = _named(_visible(raw), _IDS) or _visible(raw)[0]
    ids = _cells(raw, column)
    if "" in ids:
        raise InputError(f"{_where(raw, ids.index(''))}: the id ('{column}') is empty.",
                         "Every node needs an id.")  # fmt: skip
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        last = len(ids) - 1 - ids[::-1].index(twice)
        raise InputError(f"{_where(raw, last)}: the id '{twice:.60}' ('{column}') stands twice.",
                         "Every node has one row.")  # fmt: skip
    raw.roles = {NODE: column}
    return ids


def _unknown(raw: Raw, pairs: Any, known: set[str], skip: bool) -> list[Problem]:
    found = [(place(raw, row), end) for row, pair in enumerate(pairs) for end in pair if end not in known]
    problems = [Problem(file, number, f"there is no node '{end:.60}'" if end else "an end is empty", unit)
                for (file, number, unit), end in found]  # fmt: skip
    _raise_first(problems, skip)
    return problems


def _bare(path: Path, ids: Sequence[str], cache: Path, fingerprint: str) -> Raw:
    """Nodes of which nothing is known but their edges."""
    batch = pa.RecordBatch.from_pydict({NODE: pa.array(ids, pa.large_string())})
    raw = raw_table(path, "graph", stored(cache, f"nodes of edges:{fingerprint}", [batch]), fingerprint)
    raw.roles = {NODE: NODE}
    return raw


def _with_edges(
    nodes: Raw, ids: Sequence[str], edges: Iterable[tuple[str, str, str]], fingerprint: str, cache: Path,
    problems: Sequence[Problem],
) -> Raw:  # fmt: skip
    """The table of nodes with a column of lists for each relation."""
    lists: dict[str, dict[str, list[str]]] = {}
    for a, b, relation in edges:
        lists.setdefault(relation, {}).setdefault(a, []).append(b)
    if not lists:
        raise InputError(f"{nodes.path} has no edge.", "A graph needs edges; without them take the nodes as a table.")
    taken = set(nodes.table.column_names)
    names = {relation: relation if relation not in taken else f"{relation} (edges)" for relation in lists}
    kind = pa.large_list(pa.large_string())
    arrays = {names[relation]: pa.array([own.get(one, []) for one in ids], kind) for relation, own in lists.items()}
    batch = pa.RecordBatch.from_pydict(arrays)
    from datasets import concatenate_datasets

    joined = stored(cache, f"edges of a graph:{fingerprint}", [batch])
    table = concatenate_datasets([nodes.table, joined], axis=1)
    where = nodes.path.parent if nodes.path is not None and nodes.path.is_file() else nodes.path
    raw = Raw(where.name if where else nodes.name, where, "graph", table, fingerprint, base=where,
              row_column=nodes.row_column, row_file=nodes.path, notes=[*nodes.notes],
              problems=[*nodes.problems, *problems])  # fmt: skip
    return with_roles(raw, str(nodes.roles[NODE]), list(names.values()))


def with_roles(raw: Raw, node: str, relations: Sequence[str]) -> Raw:
    """The table of nodes with its roles: what a column is called, and what it holds, say them."""
    raw.roles = {NODE: node, EDGES: list(relations)}
    free = [name for name in _visible(raw) if name not in (node, *relations)]
    if (kind := _named(free, _KIND)) is not None:
        raw.roles["node_type"] = kind
    free = [name for name in free if name != kind]
    beside = named_beside(raw.table, free)
    named = [column for column in beside.get("label", ()) if _all_different(_cells(raw, column))]
    if named:
        raw.notes.append(f"'{named[0]}' has another value for each node: it is neither a class nor a feature")
        free = [name for name in free if name not in named]
        beside = named_beside(raw.table, free)
    raw.roles |= {role: value for role, value in beside.items() if role != "id"}
    used = {x for value in beside.values() for x in ([value] if isinstance(value, str) else value)}
    left = [name for name in free if name not in used and not _NO_FEATURE.fullmatch(name)]
    if left:
        raw.roles[FEATURES] = left
    raw.roles["id"] = node
    raw.reasons = dict.fromkeys(beside, "by the name of the column") | {
        FEATURES: "what else is known of the nodes",
        "node_type": "by the name of the column",
    }
    raw.reasons = {role: why for role, why in raw.reasons.items() if role in raw.roles}
    return raw


def _all_different(values: Sequence[str]) -> bool:
    """Whether values are all different, and too many to be classes: names, or numbers with fractions."""
    some = [value for value in values if value]
    return len(some) > MOST_ALONE and len(set(some)) == len(some)


def read_graph_file(path: Path, cache: Path, skip: bool = False) -> Raw | None:
    """A graph in one file; None for a JSON file that holds no node-link graph.

    Raises InputError for an edge of a node that is not there (unless `skip`, as in `read_folder`) and for an id that
    stands twice.
    """
    ending = path.suffix.casefold()
    if ending == ".pt":
        return _saved(path, cache, skip)
    if ending == ".json":
        with text_file(path) as file:
            head = file.read(HEAD)
            if '"nodes"' not in head or not _LINKED.search(head):
                return None
    return _networkx(path, ending, cache, skip)


def _networkx(path: Path, ending: str, cache: Path, skip: bool) -> Raw:
    import networkx

    try:
        with open_regular(path) as file:
            if ending == ".json":
                graph, declared = _node_link(file.read())
            else:
                graph = networkx.read_graphml(file) if ending == ".graphml" else networkx.read_gexf(file)
                file.seek(0)
                declared = _declared(file)
    except InputError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read as a graph: {first}.", "Save it again with the program that made it.")\
            from error  # fmt: skip
    problems = _undeclared(path, graph, declared, skip)
    ids = [str(one) for one in graph.nodes]
    facts = [dict(values) for _, values in graph.nodes(data=True)]
    names = list(dict.fromkeys(name for one in facts for name in one))
    check_names(names, path)
    columns = {NODE if NODE not in names else "__node": ids} | {name: [x.get(name) for x in facts] for name in names}
    repeated = [name for name in names if list(map(str, columns[name])) == ids]  # GEXF: a label of each node
    columns = {name: values for name, values in columns.items() if name not in repeated}
    edges = [(str(a), str(b), _relation(values)) for a, b, values in graph.edges(data=True)]
    raw = _made(path, columns, edges, cache, problems)
    known = dict.fromkeys(name for _, _, values in graph.edges(data=True) for name in values)
    raw.notes += _unused(path.name, [name for name in known if name not in (*_RELATION, "id")])
    return raw


def _node_link(content: bytes) -> tuple[Any, list[str]]:
    """The graph, whose ids are texts, and the id of each node that the file lists."""
    import json

    import networkx

    found = json.loads(content)
    key = "links" if "links" in found else "edges"
    found["nodes"] = [node | {"id": str(node.get("id", k))} for k, node in enumerate(found["nodes"])]
    found[key] = [link | {end: str(link[end]) for end in ("source", "target")} for link in found[key]]
    return networkx.node_link_graph(found, edges=key), [node["id"] for node in found["nodes"]]


def _declared(file: Any) -> list[str]:
    """The id of each node that a file of XML lists."""
    from xml.etree import ElementTree

    tags = ElementTree.parse(file).iter()
    return [str(tag.get("id")) for tag in tags if tag.tag.rpartition("}")[2] == "node"]


def _undeclared(path: Path, graph: Any, declared: Sequence[str], skip: bool) -> list[Problem]:
    """Nodes that edges alone name; they leave the graph."""
    twice = next((name for name, count in Counter(declared).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{path}: the id '{twice:.60}' stands twice.", "Every node stands once.")
    unknown = [name for name in graph.nodes if str(name) not in set(declared)]
    problems = [Problem(str(path), None, f"there is no node '{name!s:.60}', which an edge names") for name in unknown]
    _raise_first(problems, skip)
    graph.remove_nodes_from(unknown)
    return problems


def _raise_first(problems: Sequence[Problem], skip: bool) -> None:
    if problems and not skip:
        more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}.", "Add the node, or leave such edges out with --unreadable skip.")


def _relation(values: Mapping[str, Any]) -> str:
    return next((str(values[name]) for name in _RELATION if isinstance(values.get(name), str)), EDGES)


def _made(
    path: Path, columns: Mapping[str, Sequence[Any]], edges: Iterable[tuple[str, str, str]], cache: Path,
    problems: Sequence[Problem] = (),
) -> Raw:  # fmt: skip
    fingerprint = file_digest(path)
    arrays = {name: _array(values) for name, values in columns.items()}
    table = stored(cache, f"nodes of a graph:{fingerprint}", [pa.RecordBatch.from_pydict(arrays)])
    nodes = raw_table(path, "graph", table, fingerprint)
    node = next(iter(columns))
    nodes.roles = {NODE: node}
    raw = _with_edges(nodes, [str(x) for x in columns[node]], edges, f"{fingerprint}:edges", cache, problems)
    raw.name, raw.path, raw.base = path.name, path, path.parent
    return raw


def _array(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None else str(v) for v in values], pa.large_string())


SAFE = "A saved graph holds tensors only: torch.save(data, path) of a Data or HeteroData without other objects."


def _saved(path: Path, cache: Path, skip: bool) -> Raw:
    """`Data` or `HeteroData` of PyTorch Geometric, or its dictionary. Nothing but tensors and these classes is read."""
    stores = _stores(path)
    nodes = {name: store for name, store in stores.items() if isinstance(name, str)}
    if not nodes:
        raise InputError(f"{path} holds no nodes.", SAFE)
    sizes = {name: _count(name, store, stores, path) for name, store in nodes.items()}
    several = len(nodes) > 1
    columns: dict[str, list[Any]] = {NODE: []}
    if several:
        columns["type"] = []
    for name in nodes:
        columns[NODE] += [f"{name}:{i}" if several else str(i) for i in range(sizes[name])]
        if several:
            columns["type"] += [name] * sizes[name]
    known = [_node_columns(store, sizes[name]) for name, store in nodes.items()]
    for column in dict.fromkeys(c for one in known for c in one):
        columns[column] = [v for one, name in zip(known, nodes, strict=True)
                           for v in one.get(column, [None] * sizes[name])]  # fmt: skip
    edges: list[tuple[str, str, str]] = []
    problems: list[Problem] = []
    for key, store in stores.items():
        if not isinstance(key, tuple) or store.get("edge_index") is None:
            continue
        kinds, index = (key[0], key[-1]), store["edge_index"]
        problems += _beyond(path, index, [sizes[kind] for kind in kinds])
        a, b = ([f"{t}:{i}" if several else str(i) for i in row] for t, row in zip(kinds, index.tolist(), strict=True))
        edges += [(x, y, key[1]) for x, y in zip(a, b, strict=True)]
    _raise_first(problems, skip)
    known = set(columns[NODE])
    raw = _made(path, columns, [edge for edge in edges if known.issuperset(edge[:2])], cache, problems)
    names = dict.fromkeys(name for store in stores.values() for name in store if name.startswith("edge_"))
    raw.notes += _unused(path.name, [name for name in names if name != "edge_index"])
    return raw


def _beyond(path: Path, index: Any, sizes: Sequence[int]) -> list[Problem]:
    """Edges whose ends are none of so many nodes."""
    found = []
    for row, count in zip(index, sizes, strict=True):
        for edge in ((row < 0) | (row >= count)).nonzero()[:, 0].tolist():
            told = f"edge {edge} joins node {int(row[edge])}, but nodes are numbered from 0 to {count - 1}"
            found.append(Problem(str(path), None, told))
    return found


def _stores(path: Path) -> dict[Any, dict[str, Any]]:
    """Type of node, or (source, relation, target) -> what is stored of it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.data import Data, HeteroData
        from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import BaseStorage, EdgeStorage, GlobalStorage, NodeStorage

    allowed = [Data, HeteroData, DataEdgeAttr, DataTensorAttr, BaseStorage, EdgeStorage, GlobalStorage, NodeStorage]
    try:
        with torch.serialization.safe_globals(allowed):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{path} cannot be read as a graph: {first}.", SAFE) from error
    if isinstance(found, HeteroData):
        kinds: dict[Any, Any] = {name: dict(found[name].items()) for name in found.node_types}
        return kinds | {key: dict(found[key].items()) for key in found.edge_types}
    plain = found.to_dict() if isinstance(found, Data) else found
    if not isinstance(plain, dict) or not isinstance(plain.get("edge_index"), torch.Tensor):
        raise InputError(f"{path} holds no edge_index.", SAFE)
    of_edges = {k: v for k, v in plain.items() if str(k).startswith("edge_")}
    return {"node": {k: v for k, v in plain.items() if k not in of_edges}, ("node", EDGES, "node"): of_edges}


def _count(name: str, store: Mapping[str, Any], stores: Mapping[Any, Mapping[str, Any]], path: Path) -> int:
    for key in ("x", "y", "num_nodes"):
        if (value := store.get(key)) is not None:
            return int(value) if isinstance(value, int) else len(value)
    edges = [(own["edge_index"], place) for key, own in stores.items() if isinstance(key, tuple)
             for place, kind in ((0, key[0]), (1, key[-1])) if kind == name]  # fmt: skip
    ends = [index[place].max().item() + 1 for index, place in edges if index.numel()]
    if not ends:
        raise InputError(f"{path}: the type '{name}' has neither features nor edges, so its nodes are not known.",
                         "Store x or num_nodes of it.")  # fmt: skip
    return int(max(ends))


def _node_columns(store: Mapping[str, Any], count: int) -> dict[str, list[Any]]:
    """What is known of each node: features x, class y (label_0, label_1... of a y of several columns), further tensors
    and lists of one value a node; masks of splits as one column."""
    import torch

    found: dict[str, list[Any]] = {}
    masks: dict[str, Any] = {}
    for key, value in store.items():
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == count:
            if key in ("train_mask", "val_mask", "test_mask"):
                masks[key.removesuffix("_mask")] = value
            elif key == "y" and value.dim() == 2:
                parts = value.T.tolist()
                found |= {"label" if len(parts) == 1 else f"label_{k}": list(map(str, v)) for k, v in enumerate(parts)}
            elif value.dim() == 1 or (value.dim() == 2 and (key == "x" or value.shape[1] < 4096)):
                name = {"y": "label"}.get(key, key)
                plain = value.tolist()
                found[name] = [str(v) for v in plain] if key == "y" and value.dim() == 1 else plain
        elif isinstance(value, list) and len(value) == count and all(isinstance(v, str) for v in value):
            found[key] = value
    if masks:
        found |= _split_columns(masks, count)
    return found


def _split_columns(masks: Mapping[str, Any], count: int) -> dict[str, list[Any]]:
    """The split of each node, or "unused"; one column for each of several public splits."""
    wide = {name: mask if mask.dim() == 2 else mask[:, None] for name, mask in masks.items()}
    number = max(mask.shape[1] for mask in wide.values())
    found = {}
    for split in range(number):
        column = np.full(count, UNUSED, object)
        for name, mask in wide.items():
            column[mask[:, min(split, mask.shape[1] - 1)].bool().numpy()] = name
        found["split" if split == 0 else f"split_{split}"] = column.tolist()
    return found


# -- from the table to tensors


def _links(value: Any) -> list[str]:
    """The ids that a cell lists: a list, or a text of ids between commas, semicolons, bars or blanks."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [part for part in re.split(r"[,;|\s]+", value.strip().strip("[]()")) if part]
        return [part.strip("'\"") for part in value]
    return [filled(v) for v in value] if isinstance(value, list | tuple) else [filled(value)]


def scan_links(raw: Raw, columns: Sequence[str]) -> np.ndarray:
    """How many ids each row lists, int64 (N,)."""
    count = np.zeros(len(raw.table), np.int64)
    for column in columns:
        cells = plain_values(column_of(raw.table, column, slice(0, len(raw.table))))
        count += np.fromiter((len(_links(value)) for value in cells), np.int64, len(count))
    if not count.any():
        raise InputError(f"{raw.path or raw.name}: no row of {', '.join(columns)} lists a neighbour.",
                         "A graph needs edges: name columns of lists of ids with --edges.")  # fmt: skip
    return count


def scan_ids(raw: Raw, column: str, found: Any) -> None:
    """Faults of ids that stand twice."""
    from nearfar.sources.scan import Fault

    first: dict[str, int] = {}
    for row, name in enumerate(_cells(raw, column)):
        if first.setdefault(name, row) != row and name:
            found.bad.append(Fault(row, column, f"the id '{name:.60}' stands twice (first in row {first[name]})"))


def scan_features(raw: Raw, columns: Sequence[str], found: Any) -> None:
    """Faults of columns of features: lists of unlike lengths, and what is no finite number where nearly all are."""
    from nearfar.modalities.vector import cell_numbers, mostly_numbers, no_finite_number, no_number
    from nearfar.sources.scan import Fault

    for column in columns:
        cells = plain_values(column_of(raw.table, column, slice(0, len(raw.table))))
        lengths = Counter(len(v) for v in cells if isinstance(v, list))
        if len(lengths) > 1 and not raw.roles.get("node_type"):
            usual = lengths.most_common(1)[0][0]
            found.bad += [Fault(row, column, f"the list has {len(v)} numbers, the others have {usual}")
                          for row, v in enumerate(cells) if isinstance(v, list) and len(v) != usual]  # fmt: skip
        some = mostly_numbers(cells)
        found.bad += [Fault(row, column, no_finite_number(v)) for row, v in enumerate(cells)
                      if (some or isinstance(v, float)) and not no_number(v) and cell_numbers(v) is None]  # fmt: skip


def _listed(data: Any, role: str) -> list[str]:
    value = data.roles.get(role, [])
    return [value] if isinstance(value, str) else list(value)


def relations_of(data: Any) -> dict[str, list[str]]:
    """Relation -> its columns; those of a list that was taken apart (links.0, links.1) are one relation."""
    found: dict[str, list[str]] = {}
    for column in _listed(data, EDGES):
        found.setdefault(re.sub(r"\.\d+$", "", column), []).append(column)
    return found


def relation_names(data: Any) -> list[str]:
    """The relations of the edges."""
    return list(relations_of(data))


def type_names(data: Any) -> list[str]:
    """The types of the nodes, sorted; one without a name where there is none."""
    return sorted({filled(v) for v in data.values("node_type")}) if "node_type" in data.roles else [""]


def _types(data: Any) -> np.ndarray:
    if "node_type" not in data.roles:
        return np.zeros(len(data), np.int64)
    names = {name: k for k, name in enumerate(type_names(data))}
    return np.array([names[filled(v)] for v in data.values("node_type")], np.int64)


def edges_of(data: Any) -> tuple[list[np.ndarray], int]:
    """Of each relation the pairs int64 (2, m) of rows, and how many listed ids are those of no row."""
    row = {filled(v): k for k, v in enumerate(data.values(NODE))}
    found, unknown = [], 0
    for columns in relations_of(data).values():
        pairs = [(k, row.get(other, -1)) for column in columns for k, value in enumerate(data.cells_of(column))
                 for other in _links(value)]  # fmt: skip
        made = np.array(pairs, np.int64).reshape(-1, 2).T
        unknown += int((made[1] < 0).sum())
        found.append(made[:, made[1] >= 0])
    return found, unknown


def _numbers(data: Any, column: str, rows: np.ndarray) -> np.ndarray | None:
    """float32 (n, d) of a column of numbers or lists of them, NaN where a cell is empty; None for words."""
    from nearfar.modalities.vector import cell_numbers, no_number

    raw = data.cells_of(column, rows)
    read = [None if no_number(v) else cell_numbers(v) for v in raw]
    if any(one is None and not no_number(v) for one, v in zip(read, raw, strict=True)):
        return None
    width = max((len(one) for one in read if one is not None), default=0)
    if not width:
        return np.zeros((len(rows), 0), np.float32)
    out = np.full((len(rows), width), np.nan, np.float32)
    for row, one in enumerate(read):
        if one is not None:
            out[row, : len(one)] = one
    return out


def feature_blocks(data: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some nodes the numbers (n, d) and the counts of words (n, 1024 or 0) of their columns of features."""
    from sklearn.feature_extraction.text import HashingVectorizer

    from nearfar.bm25 import words
    from nearfar.modalities.node import WORDS

    numbers, texts = [], []
    for column in _listed(data, FEATURES):
        block = _numbers(data, column, rows)
        if block is None:
            texts.append(_filled(data, column, rows))
        elif block.shape[1]:
            numbers.append(block)
    values: np.ndarray = np.concatenate(numbers, 1) if numbers else np.zeros((len(rows), 0), np.float32)
    if not texts:
        return values, np.zeros((len(rows), 0), np.float32)
    analyzer: Any = words
    norm: Any = None
    hashed: Any = HashingVectorizer(n_features=WORDS, analyzer=analyzer, norm=norm, alternate_sign=False)
    counted = hashed.transform([" ".join(parts) for parts in zip(*texts, strict=True)])
    return values, np.asarray(counted.todense(), np.float32)


def _filled(data: Any, column: str, rows: np.ndarray) -> list[str]:
    return [filled(v) for v in data.cells_of(column, rows)]


def texts_of(data: Any) -> tuple[str, ...] | None:
    """The text of each node: its columns of words, one after the other; None where no column of features has words."""
    rows = np.arange(len(data))
    columns = [_filled(data, name, rows) for name in _listed(data, FEATURES) if _numbers(data, name, rows) is None]
    return tuple(" ".join(filter(None, parts)) for parts in zip(*columns, strict=True)) if columns else None


def only_counts(data: Any) -> bool:
    """Whether all features are words, or numbers that are whole and not negative, and there are some."""
    numbers, counts = feature_blocks(data, np.arange(len(data)))
    whole = not numbers.shape[1] or bool(((numbers >= 0) & (numbers % 1 == 0) & ~np.isnan(numbers)).all())
    return whole and bool(numbers.shape[1] + counts.shape[1])


def of_counts(data: Any) -> Any:
    """The graph of the rows, whose features are brought to the sum 1; a type without any has (n_t, 0)."""
    return _build(data, True)


def of_numbers(data: Any) -> Any:
    """The graph of the rows, whose features are as they stand; a type without any has (n_t, 0)."""
    return _build(data, False)


def _build(data: Any, counts: bool) -> Any:
    from nearfar.graphs import connected

    pairs, _ = data.derived(edges_of)
    types, names = _types(data), type_names(data)
    features = []
    for kind in range(len(names)):
        rows = np.flatnonzero(types == kind)
        numbers, words = feature_blocks(data, rows)
        numbers = numbers[:, ~np.isnan(numbers).all(0)] if len(rows) else numbers
        found = np.concatenate([numbers, words[:, : words.shape[1] * bool(words.any())]], 1)
        if counts:
            found = np.nan_to_num(found) / np.maximum(np.nansum(found, 1, keepdims=True), 1)
        features.append(found.astype(np.float32))
    return dataclasses.replace(connected(len(data), pairs, features, types), texts=data.derived(texts_of))


def remarks(data: Any, graph: Any) -> list[str]:
    """Edges that were left out, nodes without any, types without features; of the graph as `of_numbers` or `of_counts`
    makes it."""
    pairs, unknown = data.derived(edges_of)
    loops = sum(int((part[0] == part[1]).sum()) for part in pairs)
    twice = sum(part.shape[1] - np.unique(part, axis=1).shape[1] for part in (p[:, p[0] != p[1]] for p in pairs))
    alone = int((graph.degree == 0).sum())
    from nearfar.graphs import pairs_of

    notes = [f"{len(graph):,} nodes, {pairs_of(graph).shape[1]:,} edges between them, read in both directions"]
    if len(pairs) > 1:
        parts = ", ".join(f"'{n}' {p.shape[1]:,}" for n, p in zip(relation_names(data), pairs, strict=True))
        notes.append(f"{len(pairs)} relations: {parts}")
    if unknown:
        notes.append(f"{unknown:,} listed ids are those of no row (left out, beyond the limit, or wrong)")
    if loops:
        notes.append(f"{loops:,} edges from a node to itself are left out")
    if twice:
        notes.append(f"{twice:,} edges repeat another of their relation and direction and count once with it")
    if alone:
        notes.append(f"{alone:,} nodes have no edge: only their own features tell of them")
    bare = [name for name, x in zip(type_names(data), graph.features, strict=True) if not x.shape[1]]
    if len(bare) == len(graph.features):
        notes.append("nothing is known of the nodes but their edges: how many neighbours they have is their feature")
    else:
        notes += [f"nodes of the type '{name}' have no features: how many neighbours they have is theirs"
                  for name in bare]  # fmt: skip
    return notes


def plain(item: Any, texts: bool = False) -> dict[str, Any]:
    """A node with its graph as JSON values; texts: with those of the nodes too."""
    graph = item.graph
    return ({"texts": list(graph.texts)} if texts else {}) | {
        "node": item.number,
        "types": graph.types.tolist(),
        "features": [[[None if v != v else v for v in row] for row in x.tolist()] for x in graph.features],
        "widths": [x.shape[1] for x in graph.features],
        "edges": graph.edges.tolist(),
        "relations": graph.relations.tolist(),
        "degrees": graph.degree.tolist(),
    }


def from_plain(coded: Mapping[str, Any]) -> Any:
    """The node that `plain` wrote."""
    import torch

    from nearfar.graphs import Graph, Node

    features = tuple(
        torch.tensor([float("nan") if v is None else v for row in x for v in row]).reshape(len(x), width)
        for x, width in zip(coded["features"], coded["widths"], strict=True)
    )
    edges = torch.tensor(coded["edges"], dtype=torch.int64).reshape(2, -1)
    texts = tuple(coded["texts"]) if "texts" in coded else None
    graph = Graph(features, torch.tensor(coded["types"]), edges, torch.tensor(coded["relations"], dtype=torch.int64),
                  torch.tensor(coded["degrees"]), texts)  # fmt: skip
    return Node(graph, int(coded["node"]))
