"""Nodes of a graph: a folder with nodes.csv and edges.csv, GraphML, GEXF, node-link JSON, what PyTorch Geometric saves
(.pt), or a table with columns that list the ids of other rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nearfar.checks import PositiveInt, ShareBelowOne, Width
from nearfar.errors import InputError
from nearfar.modality import Modality, Reader, holder, register

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.evaluation.task import Reference, Task
    from nearfar.graphs import Graph, Node
    from nearfar.sources.data import Data
    from nearfar.sources.raw import Raw
    from nearfar.sources.scan import Scan

WORDS = 1024  # places of the counts of words that texts of nodes become
WHOLE = 8192  # nodes up to which a batch has all of them


@dataclass
class Options:
    """The encoder of nodes.

    Args:
        graph_encoder: convolution of the encoder of nodes: gcn, sage, gat, rgcn, which has weights for each relation,
            mlp, which reads features alone, or paths, which joins the nodes of one type along meta-paths. auto: what
            the method is made for, else gcn.
        graph_width: length of its vectors; its inner layers have twice as much, those of paths as much.
        graph_layers: how many convolutions, so how many steps away a node sees.
        graph_activation: after each of them: prelu (one slope), relu, rrelu, elu. auto: what the method is made
            for, else prelu.
        graph_norm: batch: batch norm before each activation, over all nodes that pass; none. auto: what the method is
            made for, else none.
        graph_features: counts (rows that are brought to the sum 1), numbers (standardised), plain (as they are), or
            auto: counts where no feature is negative and all are whole, else numbers.
        graph_neighbours: of how many neighbours a node is trained, step by step (10,5), drawn anew each time; all: the
            whole graph passes at once.
        graph_training: all rows (transductive; labels are never seen) or train: the nodes of the training part and the
            edges between them.
        graph_target: type of the nodes that paths join. auto: the one that has most labels.
        graph_paths: meta-paths, separated by commas: TYPE-TYPE-TYPE, or TYPE-RELATION:TYPE-RELATION:TYPE where several
            relations join these types. auto: of each relation the target, another type, the target, and the target
            with itself.
        graph_nearest: how many neighbours of highest PathSim a node keeps along each path (110,700), or one number for
            all paths; all: every one.
        graph_context: whether paths sees which nodes lie between two of the target, or only that some do.
        graph_dropout: dropout of the encoder paths, in training.
        graph_held_out: share of the edges that no training sees, half for validation, half for testing, for the task
            link-prediction.
    """

    graph_encoder: Literal["auto", "gcn", "sage", "gat", "rgcn", "mlp", "paths"] = "auto"
    graph_width: Width = 256
    graph_layers: PositiveInt = 2
    graph_activation: Literal["auto", "prelu", "relu", "rrelu", "elu"] = "auto"
    graph_norm: Literal["auto", "none", "batch"] = "auto"
    graph_features: Literal["auto", "counts", "numbers", "plain"] = "auto"
    graph_neighbours: str = "all"
    graph_training: Literal["all", "train"] = "all"
    graph_target: str = "auto"
    graph_paths: str = "auto"
    graph_nearest: str = "all"
    graph_context: bool = True
    graph_dropout: ShareBelowOne = 0.2
    graph_held_out: ShareBelowOne = 0.0


@register
class NodeKind(Modality):
    """Items are `nearfar.graphs.Node`: a node with the graph around it. What views and the encoder take are
    `nearfar.graphs.Nodes`."""

    word, words = "node", "nodes"
    roles = ("node",)
    described = {
        "node": "column of the ids of nodes, where rows are nodes of a graph",
        "edges": "columns that list the ids of the nodes to which a node points, a column a relation",
        "features": "columns of what is known of a node: numbers, lists of numbers, texts",
        "node_type": "column of types of nodes",
    }
    companions = {"edges": "node", "features": "node", "node_type": "node"}
    listed = frozenset({"edges", "features"})
    identifies = transductive = True
    by_rows = True
    rank, certainty = 3, 60
    tables = frozenset({".pt", ".graphml", ".gexf", ".json"})
    options = Options
    plans = {"drop": "nearfar.views.network:Drop", "communal": "nearfar.views.network:Communal"}
    default_plan = "drop"
    why = "there is a graph: two copies that lack other edges and features are its positives"
    example = "packages"
    usage = "nearfar embed MODEL GRAPH"
    cell = None
    unit = "edges"

    # -- the way in

    def holds(self, path: Path, files: Sequence[str]) -> bool:
        from nearfar.sources.networks import is_graph

        return is_graph(files)

    def read_files(self, path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
        from nearfar.sources.networks import read_folder

        return read_folder(path, files, cache, skip)

    def read_file(self, path: Path, cache: Path, skip: bool) -> Raw | None:
        from nearfar.sources.networks import read_graph_file

        return read_graph_file(path, cache, skip)

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        return False  # nothing but the format, or the user, says that rows are nodes

    def scan(self, raw: Raw, columns: Mapping[str, Sequence[str]], found: Scan) -> None:
        """Ids, and how many edges each node has; its features are looked at for their form."""
        import numpy as np

        from nearfar.sources.networks import scan_features, scan_ids, scan_links
        from nearfar.sources.scan import scan_cells

        if not columns.get("edges"):
            raise InputError(f"{raw.path or raw.name}: a graph needs edges.",
                             "Name the columns that list a node's neighbours: --edges COLUMN.")  # fmt: skip
        scan_cells(self, raw, columns["node"][0], found, optional=False)
        found.sizes[columns["node"][0]] = scan_links(raw, columns["edges"]).astype(np.int32)
        scan_ids(raw, columns["node"][0], found)
        scan_features(raw, columns.get("features", ()), found)

    def content(self, value: Any) -> bytes:
        return str(value).encode("utf-8", "surrogatepass")

    def sizes_in_words(self, sizes: Mapping[str, Any]) -> str:
        return f"{sizes['least']} / {sizes['median']} / {sizes['most']} edges"

    def samples(self, data: Data, role: str, rows: np.ndarray) -> list[str]:
        from nearfar.graphs import joined_with

        many = joined_with(graph_of(data)).int().tolist()
        names = [str(v) for v in data.values(role, rows)]
        return [f"{name} ({many[int(row)]} neighbours)" for name, row in zip(names, rows, strict=True)]

    def remarks(self, data: Data, role: str) -> list[str]:
        from nearfar.sources.networks import remarks

        return remarks(data, bare_graph(data))

    # -- items

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> list[Node]:
        from nearfar.graphs import Node

        graph = graph_of(data)
        return [Node(graph, int(row)) for row in (range(len(data)) if rows is None else rows)]

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        """Each node in the graph without three tenths of its edges and with three tenths of its numbers empty; the same
        graph gives the same look."""
        from nearfar.graphs import Node, kept
        from nearfar.views.network import other_look

        def look(graph: Graph) -> Graph:
            return kept(graph, "other look", lambda: other_look(graph))

        return [Node(look(one.graph), one.number) for one in items]

    def show(self, data: Data, role: str, items: Any, size: int = 48) -> list[dict[str, str]]:
        """A drawing of the neighbourhood, the node itself in another colour."""
        from nearfar.reporting.drawings import neighbourhood

        return [{"image": neighbourhood(item, 2 * size)} for item in items]

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        return [self.content(value) for value in data.values(role, rows)]

    def references(self, task: Task, size: int) -> list[Reference]:
        from nearfar.evaluation.graph_references import of_graph

        return of_graph(task)

    # -- training

    def check(self, options: Any) -> None:
        fanout_of(options.graph_neighbours, options.graph_layers)
        nearest_of(options.graph_nearest)
        unlike = [name for name, usual in PATHS.items() if getattr(options, name) != usual]
        if unlike and options.graph_encoder not in ("auto", "paths"):
            raise InputError(f"--{unlike[0].replace('_', '-')} has no effect with --graph-encoder "
                             f"{options.graph_encoder}.", "Use --graph-encoder paths, or leave it out.")  # fmt: skip

    def resolve(self, options: Any, data: Data) -> Any:
        from nearfar.sources.networks import only_counts

        found = {"graph_encoder": "gcn", "graph_activation": "prelu", "graph_norm": "none"}
        found = {name: value for name, value in found.items() if getattr(options, name) == "auto"}
        if options.graph_features == "auto":
            found["graph_features"] = "counts" if data.derived(only_counts) else "numbers"
        return dataclasses.replace(options, **found)

    def resolved(self, options: Any) -> dict[str, Any]:
        return {"graph_encoder": options.graph_encoder, "graph_features": options.graph_features}

    def described_encoder(self, options: Any) -> str:
        name = "gcn" if options.graph_encoder == "auto" else options.graph_encoder
        return f"{name} of {options.graph_layers} layers"

    def usual_batch(self, items: int) -> int:
        return items if items <= WHOLE else 1024

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        from nearfar.encoders.network import GraphEncoder
        from nearfar.encoders.paths import PathEncoder
        from nearfar.sources.networks import relation_names, type_names

        graph = graph_of(data, options.graph_features == "counts")
        shared: Any = {
            "inputs": [x.shape[1] for x in graph.features],
            "types": type_names(data),
            "relations": relation_names(data),
            "convolution": options.graph_encoder,
            "dim": options.graph_width,
            "layers": options.graph_layers,
            "activation": options.graph_activation,
            "counts": options.graph_features == "counts",
            "held_out": options.graph_held_out,
            "held_seed": data.seed,
            "transductive": options.graph_training == "all",
        }
        made: Any
        if options.graph_encoder == "paths":
            made = PathEncoder(**shared, **path_settings(options, data, graph))
        else:
            made = GraphEncoder(**shared, norm=options.graph_norm)
        made.draw_neighbours(fanout_of(options.graph_neighbours, options.graph_layers))
        return made.standardise(training_graph(data, made)[0]) if options.graph_features == "numbers" else made

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        import numpy as np
        import torch

        from nearfar.graphs import Nodes, sampled

        own = inner(encoder)
        whole = graph_of(data, own.counts, own.held_out, own.held_seed)
        own.check(whole, str(data.path or data.name))
        seen, place = training_graph(data, own)
        fanout = own.fanout

        def raw(rows: np.ndarray, rng: Any = None) -> Any:
            if fanout is None or rng is None:
                return Nodes(seen, torch.from_numpy(place[rows]))
            return sampled(seen, place[rows], fanout, rng)

        return Reader(raw, lambda rows: Nodes(whole, torch.from_numpy(np.asarray(rows, np.int64))), None, len(data))

    def reader_of(self, items: Any, encoder: Any) -> Reader:
        whole = encoder.prepare(items)
        return Reader(lambda rows, rng=None: whole[rows], lambda rows: whole[rows], None, len(items))

    # -- a model and its use

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        from nearfar.encoders.network import GraphEncoder
        from nearfar.encoders.paths import PathEncoder
        from nearfar.encoders.text_nodes import text_nodes_from

        if "text" in config:
            return text_nodes_from(config, folder)
        return (PathEncoder if config["convolution"] == "paths" else GraphEncoder).restored(config)

    def accepts(self, item: Any) -> bool:
        from nearfar.graphs import Node

        return isinstance(item, Node)

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        own = inner(encoder)
        plain = not own.mean.any() and bool((own.std == 1).all())
        scale = "as they are; an empty number is 0" if plain else "standardised; an empty number is the mean"
        scale = "texts of the nodes" if own.reads_texts else "rows that sum to 1" if own.counts else scale
        return {"features": scale,
                "types": own.types, "relations": own.relations, "numbers": own.inputs}  # fmt: skip

    def examples(self, encoder: Any) -> list[Any]:
        """Nodes of a drawn ring."""
        import numpy as np

        from nearfar.graphs import Node, connected

        own, rng = inner(encoder), np.random.default_rng(0)
        count = 3 * len(own.inputs)
        ring = np.stack([np.arange(count), (np.arange(count) + 1) % count])
        features = [rng.normal(size=(3, d)) for d in own.inputs]
        graph = connected(count, [ring] * max(1, len(own.relations)), features, np.repeat(range(len(own.inputs)), 3))
        graph = dataclasses.replace(graph, texts=tuple(f"node {k}" for k in range(count)))
        return [Node(graph, k) for k in range(count)]

    def kept(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> list[Any]:
        from nearfar.graphs import around

        own = inner(encoder)
        graph = graph_of(data, own.counts, own.held_out, own.held_seed)
        return [around(graph, int(row), own.reach, MOST_KEPT) for row in rows]

    def write(self, items: Sequence[Any], encoder: Any) -> list[Any]:
        from nearfar.graphs import around
        from nearfar.sources.networks import plain

        own = inner(encoder)
        return [plain(around(one.graph, one.number, own.reach, MOST_KEPT), own.reads_texts) for one in items]

    def read(self, coded: Sequence[Any], encoder: Any) -> list[Any]:
        from nearfar.sources.networks import from_plain

        return [from_plain(one) for one in coded]

    def query(self, words: str, alone: bool) -> Any:
        if not alone:
            return None
        raise InputError(f"This model embeds nodes of a graph, which '{words:.60}' is not.",
                         "Ask with key:ID for a node of the index.")  # fmt: skip


MOST_KEPT = 100  # nodes around one that is kept as an example; of more, ten neighbours of each, and ten of these


PATHS = {"graph_target": "auto", "graph_paths": "auto", "graph_nearest": "all", "graph_context": True,
         "graph_dropout": 0.2}  # fmt: skip


def nearest_of(words: str) -> list[int]:
    """How many neighbours each path keeps, 0 for all. Raises InputError for what says neither."""
    parts = [part.strip() for part in words.split(",")]
    if any(part != "all" and not (part.isdigit() and int(part)) for part in parts):
        raise InputError(f"--graph-nearest is all, or a number for each path. Got '{words}'.",
                         "For example --graph-nearest 100, or --graph-nearest 110,all.")  # fmt: skip
    return [0 if part == "all" else int(part) for part in parts]


def target_of(data: Data, words: str, types: Sequence[str]) -> str:
    """The name of the type of nodes that are embedded along paths. Raises InputError for an unknown one, and where it
    is left to the labels and there are none."""
    import numpy as np

    if words != "auto":
        if words not in types:
            raise InputError(f"--graph-target '{words}': there is no such type of nodes.", f"Use {', '.join(types)}.")
        return words
    if len(types) == 1:
        return types[0]
    labels = next(iter(data.labels.values()), None)
    if labels is None or not (np.asarray(labels) >= 0).any():
        raise InputError(f"{data.name} has nodes of {len(types)} types and no labels: which are to be embedded?",
                         f"Say --graph-target {types[0]} (or {', '.join(types[1:])}).")  # fmt: skip
    kinds = np.asarray(list(data.values("node_type")), object)
    known = kinds[np.asarray(labels) >= 0]
    return max(types, key=lambda name: int((known == name).sum()))


def path_settings(options: Options, data: Data, graph: Graph) -> dict[str, Any]:
    """What an encoder of meta-paths is given besides."""
    from nearfar.metapaths import joined_types, read_paths
    from nearfar.sources.networks import relation_names, type_names

    types, relations = type_names(data), relation_names(data)
    target = target_of(data, options.graph_target, types)
    paths = read_paths(options.graph_paths, types, relations, joined_types(graph), types.index(target))
    return {
        "target": target,
        "paths": [path.words(types, relations) for path in paths],
        "nearest": nearest_of(options.graph_nearest),
        "context": options.graph_context,
        "dropout": options.graph_dropout,
    }


def inner(encoder: Any) -> Any:
    """The encoder of nodes within one that is frozen, or the first of several side by side."""
    return holder(encoder, "held_out")


def training_graph(data: Data, encoder: Any) -> tuple[Graph, np.ndarray]:
    """The graph that training sees, and the number in it of each row, int64 (N,), -1 for a row that is not in it."""
    import numpy as np

    from nearfar.graphs import kept, with_degrees

    own = inner(encoder)
    whole = own.counts, own.held_out, own.held_seed
    if own.transductive:
        return graph_of(data, *whole), np.arange(len(data))
    train = np.asarray(data.splits["train"])
    place = np.full(len(data), -1)
    place[train] = np.arange(len(train))
    bare = bare_graph(data, *whole)

    def part() -> Graph:
        return with_degrees(dataclasses.replace(bare.part(train), degrees=None))

    return kept(bare, "training part", part), place


def fanout_of(words: str, layers: int) -> list[int] | None:
    """How many neighbours are drawn step by step; None for all. Raises InputError for what says neither."""
    if words.strip() == "all":
        return None
    parts = [part.strip() for part in words.split(",")]
    if len(parts) != layers or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(f"--graph-neighbours is all, or a number for each of the {layers} layers. Got '{words}'.",
                         f"For example --graph-neighbours {','.join(['10'] * layers)}.")  # fmt: skip
    return [int(part) for part in parts]


def graph_of(data: Data, counts: bool | None = None, held_out: float = 0.0, seed: int = 0) -> Graph:
    """The graph of the rows, made once. counts: whether features are rows that sum to 1 (None: where all are counts);
    held_out: share of the edges that are left out, drawn with the seed. Nodes of a type without features have 1 and the
    logarithm of 1 + their neighbours in this very graph."""
    from nearfar.graphs import kept, with_degrees

    bare = bare_graph(data, counts, held_out, seed)
    return kept(bare, "with degrees", lambda: with_degrees(bare))


def bare_graph(data: Data, counts: bool | None = None, held_out: float = 0.0, seed: int = 0) -> Graph:
    """`graph_of`, in which nodes of a type without features have none, (n_t, 0)."""
    import numpy as np

    from nearfar import graphs
    from nearfar.sources.networks import of_counts, of_numbers, only_counts

    counted = data.derived(only_counts) if counts is None else counts
    whole = data.derived(of_counts if counted else of_numbers)
    if not held_out:
        return whole

    def left() -> Graph:
        return graphs.without(whole, np.concatenate(graphs.held_out(whole, held_out, seed), 1))

    return graphs.kept(whole, f"without held out {held_out} {seed}", left)
