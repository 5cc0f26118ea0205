"""Options: one schema, the signatures. Values from a command line, a config file or keyword arguments are checked
and converted in the same way (jsonargparse), and parts (loss, negatives, views) are named by their short names."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import shlex
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nearfar.checks import Range, check, hints
from nearfar.errors import InputError, did_you_mean

SKIPPED = ("self", "encoder", "encoder_b", "data", "modalities")
C = TypeVar("C", bound=type)
T = TypeVar("T")


PARTS = ("views", "text_views", "loss", "negatives")


def registries() -> dict[str, dict[str, type]]:
    """Part option -> its short names. Imports what the parts are made of, torch among it."""
    from nearfar import losses, negatives, views  # noqa: F401
    from nearfar.losses import parts

    plans = dict(views.plans)
    return {"views": plans, "text_views": plans, "loss": dict(parts.parts), "negatives": dict(negatives.parts)}


@dataclass(frozen=True)
class Option:
    """An argument of a constructor: its type, the type with its range, the type as it is written, and its default."""

    name: str
    type: Any
    ranged: Any
    written: Any
    default: Any


def read(target: Any) -> dict[str, Option]:
    """The options of a class or a settings dataclass by name: the one reader of signatures.

    Where a constructor takes `**shared`, or a class has none, the options of its base belong to it as well. A class
    says in three attributes what it changes in them:
        defaults: option -> another default;
        fixed: the options that it sets itself, and that are none of its own and of classes derived from it;
        follows: option -> the one that it stands behind. Else new options stand first, each behind the one before it;
            an option that is declared anew (with another type) stays where it was.
    """
    return _arguments(target) if dataclasses.is_dataclass(target) else _merged(target.__mro__)


def signature(target: Any) -> dict[str, tuple[Any, Any]]:
    """name -> (type, default) of the options of a class or a settings dataclass; see `read`."""
    return {name: (option.type, option.default) for name, option in read(target).items()}


def _arguments(source: Any, without: Sequence[str] = ()) -> dict[str, Option]:
    types, ranged = hints(source, ranges=False), hints(source)
    return {
        p.name: Option(p.name, types.get(p.name, Any), ranged.get(p.name, Any), p.annotation, p.default)
        for p in inspect.signature(source).parameters.values()
        if p.name not in without and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def _declared(cls: type) -> Any:
    """The constructor that a class writes itself, or None."""
    init = None if cls is object else vars(cls).get("__init__")
    return getattr(init, "declared", init)


def _shares(init: Any) -> bool:
    return any(p.kind == p.VAR_KEYWORD for p in inspect.signature(init).parameters.values())


def _merged(classes: Sequence[type]) -> dict[str, Option]:
    if not classes:
        return {}
    cls, init = classes[0], _declared(classes[0])
    if init is None:
        found = _merged(classes[1:])
    else:
        found = _arguments(init, SKIPPED)
        if _shares(init):
            found = _placed(found, _merged(classes[1:]), vars(cls).get("follows", {}))
    defaults, fixed = vars(cls).get("defaults", {}), vars(cls).get("fixed", ())
    for name in (*defaults, *fixed):
        if name not in found:
            raise TypeError(f"{cls.__name__} has no option '{name}' to change.{did_you_mean(name, found)}")
    return {
        name: dataclasses.replace(option, default=defaults.get(name, option.default))
        for name, option in found.items()
        if name not in fixed
    }


def _placed(own: Mapping[str, Option], shared: Mapping[str, Option], follows: Mapping[str, str]) -> dict[str, Option]:
    order, at = list(shared), 0
    for name in own:
        if name in order and name not in follows:
            continue
        order = [other for other in order if other != name]
        at = order.index(follows[name]) + 1 if name in follows else at
        order.insert(at, name)
        at += 1
    return {name: own[name] if name in own else shared[name] for name in order}


def complete(cls: C) -> C:
    """Class decorator: the constructor takes all options of `read` by name, refuses others and values out of range
    (InputError), and hands every option on; `help` and `inspect.signature` show them all."""
    declared, known = _declared(cls), read(cls)
    writer = next(init for init in map(_declared, cls.__mro__) if init is not None)
    options = [inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=o.written)
               for o in known.values()]  # fmt: skip
    given = [p for p in inspect.signature(writer).parameters.values() if p.name in SKIPPED]
    order = inspect.Signature([*given, *options]) if _shares(writer) else inspect.signature(writer)
    names = {*known, *(p.name for p in given)}

    def __init__(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in names:
                raise InputError(f"Unknown option '{name}'.{did_you_mean(name, known)}")
        bound = order.bind(self, *args, **options)
        for name, value in bound.arguments.items():
            if name in known:
                check(name, value, known[name].ranged)
        bound.apply_defaults()
        inner = super(cls, self).__init__ if declared is None else functools.partial(declared, self)
        inner(*bound.args[1:], **bound.kwargs)

    made: Any = functools.update_wrapper(__init__, writer)
    made.declared, made.__signature__, made.__qualname__ = declared, order, f"{cls.__qualname__}.__init__"
    made.__annotations__ = {name: option.ranged for name, option in known.items()}
    cls.__init__ = made
    return cls


@functools.lru_cache(maxsize=256)
def make_parser(targets: tuple[Any, ...], only: frozenset[str] | None = None) -> Any:
    """A parser of the options of all `targets` (later ones do not repeat earlier names), or of those named `only`."""
    from jsonargparse import ArgumentParser

    from nearfar.methods.documentation import arguments

    parser = ArgumentParser(exit_on_error=False, add_help=False)
    seen: set[str] = set()
    for target in targets:
        described = arguments(target)
        for name, (kind, default) in signature(target).items():
            if name in seen or (only is not None and name not in only):
                continue
            seen.add(name)
            flags = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
            parser.add_argument(*flags, type=kind, default=default, help=described.get(name, ""))
    return parser


@functools.lru_cache(maxsize=64)
def _defaults(targets: tuple[Any, ...]) -> Any:
    """What holds where nothing is given: checked once, since the library looks at all options each time."""
    return make_parser(targets).parse_object({})


def forget() -> None:
    """Signatures have changed: what was made of them goes."""
    make_parser.cache_clear()
    _defaults.cache_clear()


def names(targets: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(n for t in targets for n in signature(t)))


def from_command_line(
    targets: Sequence[Any], argv: Sequence[str], positional: list[str] | None = None
) -> dict[str, Any]:
    """Options given on a command line, as words; other words go to `positional`, or are an error."""
    given: dict[str, Any] = {}
    known, words = names(targets), list(argv)
    while words:
        word = words.pop(0)
        if word == "--" and positional is not None:  # what follows are no options, whatever it looks like
            positional += words
            break
        if not re.match(r"--[A-Za-z]", word):
            if positional is None:
                raise InputError(f"Unexpected argument '{word}'.", "Options begin with '--'; quote values with spaces.")
            positional.append(word)
            continue
        flag, equals, value = word[2:].partition("=")
        path = flag.replace("-", "_").split(".")
        if path[0] not in known:
            raise InputError(f"Unknown option '--{flag}'.{_nearest(path[0], known)}")
        if not equals:
            value = _value_of(flag, words, len(path) == 1 and _is_bool(targets, path[0]))
        _put(given, path, value)
    return given


def _value_of(flag: str, words: list[str], is_bool: bool) -> str:
    """The value that follows an option; a bare yes-or-no option means yes."""
    if is_bool:
        return words.pop(0) if words and words[0].lower() in ("true", "false", "yes", "no") else "true"
    if not words or re.match(r"--[A-Za-z]", words[0]):
        hint = f"A value that begins with dashes is written --{flag}={words[0]}." if words else ""
        raise InputError(f"The option '--{flag}' needs a value.", hint)
    return words.pop(0)


def _nearest(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known).replace("'", "'--", 1).replace("_", "-")


def _is_bool(targets: Sequence[Any], name: str) -> bool:
    return any(signature(t).get(name, (None, None))[0] is bool for t in targets)


def _put(given: dict[str, Any], path: list[str], value: str) -> None:
    if len(path) == 1:
        given[path[0]] = value
        return
    part = given.get(path[0])
    if part is None or isinstance(part, str):
        part = {"name": part} if part else {}
    given[path[0]] = {**part, path[1]: value}


def from_file(path: str | Path, targets_of: Callable[[dict[str, Any]], Sequence[Any]]) -> dict[str, Any]:
    """Options from a YAML or JSON file. An unknown key is an error with file, line and the nearest key.

    `targets_of` gives the targets for the values that were read (the file may name the method)."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no config file '{path}'.")
    try:
        text = path.read_text("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{path}{f', line {mark.line + 1}' if mark else ''}: not valid YAML.") from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"{path} is not a config file ({str(error).splitlines()[0][:120]}).",
            "It holds 'option: value' lines in UTF-8.",
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or node is None:
        raise InputError(f"{path}: expected 'option: value' lines.")
    known = names(targets_of(values))
    for key, _ in node.value:
        name = str(key.value).replace("-", "_")
        if name not in known and name not in ("method", "data"):
            raise InputError(
                f"{path}, line {key.start_mark.line + 1}: unknown option '{key.value}'.{did_you_mean(name, known)}"
            )
    return {str(k).replace("-", "_"): v for k, v in values.items()}


def checked(targets: Sequence[Any], given: Mapping[str, Any], preset: str = "auto") -> Any:
    """Converts and checks `given` against the signatures; a namespace with every option. Raises InputError.

    A method's own settings of its parts hold for the parts that are named in `given`, as far as they are not named too;
    a part that was built in Python is taken as it is. preset: "paper" puts a method's literals under what was given,
    unless `given` says otherwise.
    """
    known = names(targets)
    for name in given:
        if name not in known:
            raise InputError(f"Unknown option '{name}'.{did_you_mean(name, known)}")
    chosen = str(given.get("preset", preset)) if "preset" in known else preset
    for target in targets:
        if hasattr(target, "default_part"):
            given = _with_own_settings(target, given, chosen == "paper")
    found = _parsed(targets, {k: _expanded(k, v) for k, v in given.items()})
    _check_ranges(targets, found, given)
    return found


def build(settings: type[T], found: Any) -> T:
    """A dataclass of settings from a namespace that `checked` gave."""
    fields: Any = dataclasses.fields(settings)  # pyright: ignore[reportArgumentType]
    return settings(**{f.name: getattr(found, f.name) for f in fields})


@dataclass(frozen=True)
class NoOptions:
    """Of what has no options."""


def words_of(option: str, text: str) -> list[str]:
    """The words of an option that holds a name with options of its own. Raises InputError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"--{option}: '{text}' cannot be divided into words ({error}).", "Close its quotes.") from None


def _parsed(targets: Sequence[Any], values: Mapping[str, Any]) -> Any:
    from jsonargparse import ArgumentError

    parser = make_parser(tuple(targets), frozenset(values))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            several = _several(targets)
            kept = {name for target in targets for name in getattr(target, "none_stays", tuple)()}
            kept |= _named_none(targets)
            words = [w for k, v in values.items() for w in _words(k, v, k in several, k in kept)]
            plain = {k: v for k, v in values.items() if not isinstance(v, str)}
            found = parser.parse_object(plain)
            found = parser.parse_args(words, namespace=found) if words else found
            whole = _defaults(tuple(targets)).clone()
            whole.update(found)
            return whole
    except ArgumentError as error:
        raise InputError(_sentence(str(error))) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(_sentence(str(error))) from None


def _with_own_settings(method: Any, given: Mapping[str, Any], paper: bool) -> dict[str, Any]:
    """`given` with the method's own settings (and the paper's) in the parts that were named."""
    table, known = registries(), names([method])
    mine = {k: v for k, v in given.items() if k in known}
    plain = {k: v for k, v in mine.items() if k not in table}
    typed = vars(_parsed([method], plain))
    named = plain
    preset = dict(method.paper_preset({k: typed[k] for k in plain})) if paper else {}
    plain = {k: v for k, v in preset.items() if k not in table} | plain
    settings = method.parts(typed if plain == named else vars(_parsed([method], plain)))
    found = {**given, **plain}
    for option in (name for name in known if name in table):
        own = {**settings.get(option, {}), **(preset.get(option) or {})}
        if option in mine:
            found[option] = _filled(option, mine[option], own, table[option])
        elif option in preset:
            found[option] = own
    _check_used(method, typed, mine, settings)
    _check_effect(method, typed, mine, settings, preset)
    return found


def _filled(option: str, value: Any, own: Mapping[str, Any], table: Mapping[str, type]) -> Any:
    """A part that was named, with the method's own settings `own` under the options that were not.

    A setting holds for a part of another kind that has the same option: of the same name and type."""
    if value is None or value in ("auto", "none", "null", "None") or not own:
        return value
    if isinstance(value, (str, type)):
        value = {"name": value}
    elif not isinstance(value, Mapping):
        return value  # built by the user
    name = value.get("name", own.get("name"))
    if name is None:
        return value
    cls = _part(option, name, table)
    options, default = read(cls), table.get(own.get("name", ""), cls)
    same = read(default)
    fits = {k: v for k, v in own.items() if k in options and k in same and options[k].ranged == same[k].ranged}
    return {**fits, **value, "name": name}


def _check_used(method: Any, typed: Mapping[str, Any], given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises where an option of the method sets one of its default part while a part without it was chosen."""
    for option, part in method.of_part.items():
        default, chosen = read(method)[option].default, given.get(part)
        name = chosen.get("name") if isinstance(chosen, Mapping) else chosen
        own = settings.get(part, {}).get("name")
        if option not in given or typed[option] == default or not isinstance(name, str) or name in (own, "auto"):
            continue
        if name in ("none", "null", "None") or option not in read(_part(part, name, registries()[part])):
            raise InputError(
                f"The option '{option}' belongs to the {part} '{own}', but '{name}' was chosen.",
                "Leave out one of them.",
            )


def _check_effect(
    method: Any,
    typed: Mapping[str, Any],
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    preset: Mapping[str, Any],
) -> None:
    """Raises where an option was given that has no effect beside the others (`Method.only_with`)."""
    known, table = read(method), registries()
    for option in (name for name in method.only_with if name in given and name in known):
        if typed[option] in (known[option].default, preset.get(option)):
            continue
        for other, suits in method.only_with[option].items():
            if other not in known:
                continue
            if isinstance(suits, str):
                name = _name_of_part(given.get(other)) or settings.get(other, {}).get("name")
                fits = name is None or getattr(_part(other, name, table[other]), suits)
            else:
                name = typed[other] if other in given else preset.get(other, typed[other])
                fits = name in suits
            if not fits:
                owners = "" if isinstance(suits, str) else f": it belongs to --{_flag(other)} {_suiting(suits)}"
                raise InputError(
                    f"--{_flag(option)} {_plainly(given[option])} has no effect with --{_flag(other)} "
                    f"{_plainly(name)}{owners}.",
                    "Leave out one of them.",
                )


def _name_of_part(value: Any) -> str | type | None:
    """What names a part: a short name, a path or a class; None for the default one."""
    if isinstance(value, Mapping):
        value = value.get("name")
    known = value is None or isinstance(value, (str, type))
    return None if value in (None, "auto", "none", "null", "None") else value if known else type(value)


def _flag(option: str) -> str:
    return option.replace("_", "-")


def _plainly(value: Any) -> str:
    """As on a command line."""
    return str(value).lower() if isinstance(value, bool) else getattr(value, "__name__", str(value))


def _suiting(values: Range | Sequence[Any]) -> str:
    if isinstance(values, Range):
        return f"of {values.words(False)}"
    *first, last = map(_plainly, values)
    return f"{', '.join(first)} or {last}" if first else last


def make_part(option: str, settings: Mapping[str, Any]) -> Any:
    """A fresh part: make_part("negatives", {"name": "queue", "size": 64})."""
    table = registries()[option]
    cls = _part(option, settings["name"], table)
    return cls(**{k: v for k, v in settings.items() if k != "name"})


def _check_ranges(targets: Sequence[Any], found: Any, given: Mapping[str, Any]) -> None:
    """Every option that was given lies in the range of its type, those of parts too."""
    for target in targets:
        for name, option in read(target).items():
            if name not in given:
                continue
            value = getattr(found, name)
            check(name, value, option.ranged)
            if hasattr(value, "class_path") and value.get("init_args"):
                known = read(_imported(name, value.class_path))
                for part, inner in vars(value["init_args"]).items():
                    if part in known:
                        check(part, inner, known[part].ranged)


def _words(name: str, value: Any, several: bool, kept: bool) -> list[str]:
    """A word for the parser. several: numbers with commas between them become a list; none means no value, unless it is
    a word of its own (`kept`)."""
    if not isinstance(value, str):
        return []
    if several and re.fullmatch(r"[^\[(]+(,[^,]+)+", value.strip()):
        value = f"[{value}]"
    nothing = value in ("none", "None") and not kept
    return [f"--{name}={'null' if nothing else value}"]


def _several(targets: Sequence[Any]) -> set[str]:
    """The options that take several numbers, written with commas between them."""
    return {
        name
        for target in targets
        for name, option in read(target).items()
        if any(typing.get_origin(kind) is tuple for kind in (option.type, *typing.get_args(option.type)))
    }


def _named_none(targets: Sequence[Any]) -> set[str]:
    """The options of which "none" is one of the words."""
    return {
        name
        for target in targets
        for name, option in read(target).items()
        if any("none" in typing.get_args(kind) for kind in (option.type, *typing.get_args(option.type)))
    }


def _expanded(option: str, value: Any) -> Any:
    """A part as {"class_path", "init_args"}: from a short name, a dotted class path, {"name": ..., options}, a class or
    an instance (Python only), so that a part of one's own stands beside the built-in ones."""
    if option not in PARTS or value is None or value in ("auto", "none", "null"):
        return None if option in PARTS and value in ("none", "null") else value
    table = registries()[option]
    if isinstance(value, (str, type)):
        value = {"name": value}
    elif not isinstance(value, Mapping):
        value = _described(option, value)
    rest = {k: v for k, v in value.items() if k != "name"}
    name = value.get("name")
    if name is None:
        raise InputError(f"--{option}.{next(iter(rest), '')} needs --{option} NAME first.")
    cls = _part(option, name, table)
    known = list(signature(cls))
    for k in rest:
        if k not in known:
            raise InputError(
                f"'{name}' has no option '{k}'.{did_you_mean(k, known)}", f"It has: {', '.join(known) or 'none'}."
            )
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {k: _literal(v) for k, v in rest.items()},
    }


def _part(option: str, name: str | type, table: Mapping[str, type]) -> type:
    """The class behind a short name, a dotted path or a class; it must be of the option's kind."""
    kind = _kind(table)
    if isinstance(name, str) and name in table:
        return table[name]
    if isinstance(name, str) and "." in name:
        cls = _imported(option, name)
    elif isinstance(name, type):
        cls = name
    else:
        raise InputError(f"Unknown {option} '{name}'.{did_you_mean(str(name), table)}", f"Known: {', '.join(table)}.")
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise InputError(
            f"'{name}' does not fit --{option}: it must be a class derived from {kind.__module__}.{kind.__name__}."
        )
    if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
        raise InputError(
            f"The {option} '{cls.__qualname__}' cannot be found again when the run is resumed or its model loaded.",
            "Define it at the top level of a module that can be imported.",
        )
    return cls


def _imported(option: str, path: str) -> Any:
    module, _, last = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"The {option} '{path}' cannot be imported: {error}.", "Its module must lie on the PYTHONPATH."
        ) from None


def _kind(table: Mapping[str, type]) -> type:
    """The class from which all parts of a registry derive."""
    shared = set.intersection(*(set(c.__mro__) for c in table.values()))
    return max(shared, key=lambda c: len(c.__mro__))


def _described(option: str, part: Any) -> dict[str, Any]:
    """An instance as its class and options, read from the attributes that bear the names of the constructor's
    arguments: a fresh one is made from them, since a run must be repeatable from its config file alone."""
    table = registries()[option]
    cls = type(part)
    if not isinstance(part, _kind(table)):
        raise InputError(f"'{option}' takes a part or a name of {', '.join(table)}. Got {part!r}.")
    lacking = [k for k in signature(cls) if not hasattr(part, k)]
    if lacking:
        raise InputError(
            f"The options of this {cls.__name__} cannot be read: it keeps no attribute '{lacking[0]}'.",
            f"Give {option}={{'name': '{cls.__module__}.{cls.__name__}', '{lacking[0]}': ...}} instead.",
        )
    return {"name": cls, **{k: getattr(part, k) for k in signature(cls)}}


def _literal(value: Any) -> Any:
    """Values of a part's own options come as words; YAML reads them as it would in a config file."""
    import yaml

    if not isinstance(value, str):
        return value
    read = yaml.safe_load(f"[{value}]")
    return read if len(read) > 1 else read[0] if read else value


def _sentence(text: str) -> str:
    """jsonargparse's account of a wrong value, in one sentence."""
    key = re.search(r'Parser key "([^"]+)"', text)
    value = re.search(r"(?:Given|Got) value: (.*)", text)
    expected = list(dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", text, re.M)))
    if key and value and expected:
        kinds = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", e.strip().rstrip(".")) for e in expected]
        kinds = [_KINDS.get(k, k) for k in kinds]
        kinds = [re.sub(r"typing\.Literal\[(.*)\]", r"\1", k) for k in kinds if "NoneType" not in k]
        kinds = [k.replace("', '", "' or '") for k in kinds]
        return f"The option '{key.group(1)}' must be {' or '.join(kinds)}. Got {value.group(1).strip()} instead."
    return " ".join(text.split())


_KINDS = {
    "tuple": "numbers separated by commas",
    "int": "a whole number",
    "float": "a finite number",
    "bool": "true or false",
}


def plain(options: Any) -> dict[str, Any]:
    """A namespace as JSON values, parts by their short names."""

    def convert(name: str, value: Any) -> Any:
        if hasattr(value, "class_path"):
            # A part of one's own keeps its path: its short name is known only once its module has been imported.
            short = {
                f"{c.__module__}.{c.__qualname__}": k
                for k, c in registries().get(name, {}).items()
                if c.__module__.startswith("nearfar.")
            }
            arguments = {k: convert(k, v) for k, v in vars(value.init_args).items()} if value.get("init_args") else {}
            return {"name": short.get(value.class_path, value.class_path), **arguments}
        if isinstance(value, tuple):
            return [convert("", v) for v in value]
        return value

    return {k: convert(k, v) for k, v in vars(options).items()}


def foreign_parts(given: Mapping[str, Any]) -> list[str]:
    """The dotted paths among the parts of stored options: what would be imported to make them."""
    known = registries()
    named = [v.get("name") if isinstance(v, Mapping) else v for k, v in given.items() if k in known]
    return [str(name) for name in named if isinstance(name, str) and "." in name]


def instantiate(targets: Sequence[Any], options: Any) -> dict[str, Any]:
    """Fresh parts from a checked namespace."""
    parser = make_parser(tuple(targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes
        try:
            made = make(options)
        except ValueError as error:
            cause = error if isinstance(error, InputError) else error.__cause__
            raise (cause if isinstance(cause, InputError) else InputError(_sentence(str(error)))) from None
    return dict(vars(made))
