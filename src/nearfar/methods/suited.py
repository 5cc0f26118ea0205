"""What `compare` takes where no method is named: the table of docs/choosing.md.

By the method that suits the data (`Method.suits`) and the roles that they hold besides; the first row that applies
counts, and of its methods those that fit.
"""

SUITED: tuple[tuple[str, frozenset[str], tuple[str, ...]], ...] = (
    ("align", frozenset(), ("align", "pairs", "clip-rocket", "negclip")),
    ("sasrec", frozenset(), ("sasrec", "cl4srec", "mclrec")),
    ("grace", frozenset(), ("grace", "csgcl", "bgrl", "graph-barlow-twins")),
    ("simclr", frozenset({"attribute", "object"}), ("cot", "simclr")),
    ("simclr", frozenset({"bag", "target"}), ("ins", "abmil", "simclr")),
    ("simclr", frozenset({"series"}), ("ts2vec", "autotcl", "simclr")),
    ("simclr", frozenset({"target"}), ("supremix", "l1-regression", "simclr")),
    ("simclr", frozenset({"image", "label"}), ("simclr", "dcl", "swav", "simclr --loss supcon")),
    ("simclr", frozenset({"image"}), ("simclr", "dcl", "swav", "nnclr")),
    ("simclr", frozenset({"label"}), ("simclr", "dcl", "nnclr", "simclr --loss supcon")),
    ("simclr", frozenset(), ("simclr", "dcl", "nnclr")),
    ("pairs", frozenset({"group"}), ("simclr", "pairs", "dcl --views members", "swav --views members")),
    ("pairs", frozenset({"pair", "score"}), ("pairs", "pairs --loss cosent", "simcse")),
    ("pairs", frozenset({"pair", "negative"}), ("pairs", "multicsr", "simcse")),
    ("pairs", frozenset({"pair", "text"}), ("pairs", "simcse", "contriever")),
    ("pairs", frozenset(), ("pairs", "simclr")),
    ("contriever", frozenset({"tree"}), ("space2", "simcse")),
    ("contriever", frozenset({"label"}), ("contriever", "simcse", "simclr --views delete", "simclr --loss supcon")),
    ("contriever", frozenset(), ("contriever", "simcse", "simclr --views delete")),
)
