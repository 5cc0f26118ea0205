"""Dialogues in JSON: each turn of the user with what was said before it, and what it is annotated with.

    {"turns": [{"role": "user", "text": "...", "tree": {...}}, ...], "tree": {...} of the last turn of the user}
    {"PMUL1.json": {"log": [{"text": "...", "metadata": {...} or "dialog_act": {...}}, ...]}}       MultiWOZ 2.0, 2.1
    {"dialogue_id": "...", "turns": [{"speaker": "USER", "utterance": "...", "frames": [...]}]}     MultiWOZ 2.2, SGD

A row's text is the dialogue up to a turn of the user, one utterance a line behind its role: "user: ...", "system: ...".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nearfar.errors import InputError
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.tables import Row, file_digest, stored, string_batches, text_file
from nearfar.sources.trees import Path as TreePath
from nearfar.sources.trees import paths_of, written
from nearfar.sources.utterances import SYSTEM, USER, role_of, utterance_line

MOST_TURNS = 16  # utterances of a context
HEAD = 1 << 20  # signs in which dialogues show themselves
_TURNS = re.compile(r'"(?:log|turns)"\s*:\s*\[\s*\{')
_SAID = {"role", "speaker", "text", "utterance"}  # what a turn has at least one of
_UNSAID = {"", "not mentioned", "none"}  # what MultiWOZ writes for a slot without a value
COLUMNS = ("id", "text", "tree", "unit")
HINT = ('A dialogue is {"turns": [{"role": "user", "text": "..."}, ...]}, or as MultiWOZ and SGD have it; or leave '
        "such dialogues out with --unreadable skip.")  # fmt: skip


class _Unfit(Exception):
    """What is wrong with a dialogue."""


def read_dialogues(path: Path, cache: Path, skip: bool) -> Raw | None:
    """The dialogues of a JSON file, one row a turn of the user: id, text, tree and the dialogue (`unit`); None for a
    file that holds none.

    A context has 16 utterances at most; a row's tree is that of its last turn. Raises InputError, which names the
    dialogue, for one without turns, or without one of the user, a name that stands twice, an empty utterance, a speaker
    that is neither user nor system, a tree that is none; with `skip` these are left out and counted.
    """
    with text_file(path) as file:
        if not _TURNS.search(file.read(HEAD)):
            return None
    found = _dialogues(path)
    talk = [any(isinstance(turn, dict) and _SAID & turn.keys() for turn in _turns(one) or ()) for _, one in found]
    if not talk or sum(talk) < len(talk) / 2:
        return None
    rows, problems, names = [], [], set[str]()
    for key, one in found:
        try:
            if key in names:
                raise _Unfit("an earlier dialogue has this name")
            names.add(key)
            rows += rows_of(key, one)
        except (_Unfit, ValueError) as error:
            if not skip:
                raise InputError(f"{path}, dialogue '{key}': {error}.", HINT) from error
            problems.append(Problem(str(path), None, f"dialogue '{key}': {error}"))
    if not rows:
        raise InputError(f"No dialogue of {path} can be read: {problems[0]}.", HINT)
    columns = [*COLUMNS, *(["split"] if any("split" in row for row in rows) else [])]
    digest = file_digest(path)
    numbered: Iterator[Row] = ((i, row) for i, row in enumerate(rows))
    table = stored(cache, f"dialogues:{skip}:{digest}", string_batches(numbered, columns))
    raw = Raw(path.name, path, "dialogues", table, digest, base=path.parent, problems=problems)
    raw.roles = {"text": "text", "tree": "tree", "unit": "unit", "id": "id"}
    raw.reasons = {"text": "the dialogue up to a turn of the user", "tree": "what the turn is annotated with",
                   "unit": "the dialogue", "id": "dialogue and turn"}  # fmt: skip
    if not any(row["tree"] for row in rows):
        del raw.roles["tree"], raw.reasons["tree"]
        raw.notes.append("no turn of a user has an annotation")
    if "split" in columns:
        raw.roles["split"], raw.reasons["split"] = "split", "the dialogues say so"
    return raw


def _dialogues(path: Path) -> list[tuple[str, Any]]:
    """Name and object of each dialogue."""
    try:
        items: Any = _objects(path)
    except (ValueError, RecursionError):
        return []  # the reader of tables says where it is wrong
    if isinstance(items, dict):
        if _turns(items) is None and not isinstance(items.get("dialogues"), list):
            return list(items.items())
        items = items.get("dialogues") or [items]
    return [(_name(one, number), one) for number, one in enumerate(items, 1)]


def _objects(path: Path) -> Any:
    """What a file holds: JSON, or an object a line."""
    with text_file(path) as file:
        text = file.read()
    if path.suffix.casefold() == ".json":
        try:
            return json.loads(text)
        except ValueError:
            pass
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _name(dialogue: Any, number: int) -> str:
    """What a dialogue is called, or #NUMBER."""
    names = [dialogue.get(key) for key in ("dialogue_id", "id")] if isinstance(dialogue, dict) else []
    return next((str(name) for name in names if name is not None), f"#{number}")


def _turns(dialogue: Any) -> list[Any] | None:
    found = dialogue.get("log", dialogue.get("turns")) if isinstance(dialogue, dict) else None
    return found if isinstance(found, list) else None


def rows_of(key: str, dialogue: dict[str, Any]) -> list[dict[str, str | None]]:
    """A row for each turn of the user. Raises _Unfit or ValueError for a dialogue that is none."""
    turns = _turns(dialogue)
    if turns is None:
        raise _Unfit("it has no list of turns")
    lines, rows, trees = [], [], trees_of(dialogue)
    for number, turn in enumerate(turns):
        role, said = _said(turn, number, "log" in dialogue)
        lines.append(utterance_line(role, said))
        if role == USER:
            more = {"split": str(dialogue["split"])} if isinstance(dialogue.get("split"), str) else {}
            rows.append({"id": f"{key}:{number}", "text": "\n".join(lines[-MOST_TURNS:]),
                         "tree": written(trees[number]), "unit": key, **more})  # fmt: skip
    if not rows:
        raise _Unfit("it has no turn of a user")
    return rows


def _said(turn: Any, number: int, alternate: bool) -> tuple[str, str]:
    """Role and words of a turn; in a MultiWOZ log the user begins and the two take turns."""
    if not isinstance(turn, dict):
        raise _Unfit(f"turn {number} is {type(turn).__name__}, not an object")
    name = turn.get("role", turn.get("speaker"))
    if name is None and not alternate:
        raise _Unfit(f"turn {number} says no role")
    role = (USER, SYSTEM)[number % 2] if name is None else role_of(str(name))
    if role is None:
        raise _Unfit(f"the role '{name}' of turn {number} is neither user nor system")
    said = turn.get("text", turn.get("utterance"))
    if said is not None and not isinstance(said, str):
        raise _Unfit(f"the utterance of turn {number} is {type(said).__name__}, not a text")
    if said is None or not said.strip():
        raise _Unfit(f"the utterance of turn {number} is empty")
    return role, said


def trees_of(dialogue: dict[str, Any]) -> list[tuple[TreePath, ...]]:
    """The tree of each turn, () where it has none: its own, or of MultiWOZ its frames, its acts, or the belief state
    that follows it. What the dialogue as a whole is annotated with belongs to the last turn of the user."""
    turns = _turns(dialogue) or []
    found = [_tree(turn, turns[k + 1] if k + 1 < len(turns) else {}) for k, turn in enumerate(turns)]
    whole = dialogue.get("tree", dialogue.get("annotation"))
    users = [k for k, turn in enumerate(turns) if _said(turn, k, "log" in dialogue)[0] == USER]
    if users and not found[users[-1]]:
        found[users[-1]] = paths_of(whole)
    return found


def _tree(turn: Any, after: Any) -> tuple[TreePath, ...]:
    if not isinstance(turn, dict):
        return ()
    own = turn.get("tree", turn.get("annotation"))
    if own is not None:
        return paths_of(own)
    if isinstance(turn.get("frames"), list):
        return paths_of(list(_of_frames(turn["frames"])))
    if isinstance(turn.get("dialog_act"), dict) and turn["dialog_act"]:
        return paths_of(list(_of_acts(turn["dialog_act"])))
    state = after.get("metadata") if isinstance(after, dict) else None
    return paths_of(list(_of_state(state))) if isinstance(state, dict) else ()


def _of_frames(frames: Sequence[Any]) -> Iterator[list[Any]]:
    """MultiWOZ 2.2 and SGD: one frame a domain with the intent and the slots of the state."""
    for frame in frames:
        state = _object(_object(frame, "a frame").get("state") or {}, "the state of a frame")
        intent, slots = state.get("active_intent"), _object(state.get("slot_values") or {}, "the slots of a frame")
        head = [frame.get("service"), None if str(intent).casefold() == "none" else intent]
        pairs = [(slot, value) for slot, values in slots.items() for value in _listed(values)]
        if head[1] is not None and not pairs:
            yield head
        yield from ([*head, slot, value] for slot, value in pairs)


def _of_acts(acts: dict[str, Any]) -> Iterator[list[Any]]:
    """MultiWOZ 2.1: {"Hotel-Inform": [["area", "north"], ...]}; "none" and "?" are no slots and no values."""
    for act, pairs in acts.items():
        domain, _, intent = act.partition("-")
        pairs = [list(pair) for pair in pairs.items()] if isinstance(pairs, dict) else pairs
        if not isinstance(pairs, list | None):
            raise _Unfit(f"the slots of the act '{act}' are {type(pairs).__name__}, not a list")
        for pair in pairs or [[]]:
            slot, value = [*pair, None, None][:2] if isinstance(pair, list) else (None, None)
            slot = None if str(slot).casefold() in ("none", "?") else slot
            value = None if slot is None or str(value).casefold() in (*_UNSAID, "?") else value
            yield [domain, intent, slot, value]


def _of_state(state: dict[str, Any]) -> Iterator[list[Any]]:
    """MultiWOZ 2.0 and 2.1: {"hotel": {"semi": {"area": "north"}, "book": {"day": "", "booked": []}}}."""
    for domain, parts in state.items():
        for part in parts.values() if isinstance(parts, dict) else ():
            for slot, values in part.items() if isinstance(part, dict) else ():
                if slot != "booked":
                    yield from ([domain, None, slot, value] for value in _listed(values))


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unfit(f"{what} is {type(value).__name__}, not an object")
    return value


def _listed(values: Any) -> list[str]:
    found = values if isinstance(values, list) else [values]
    return [str(v) for v in found if v is not None and str(v).strip().casefold() not in _UNSAID]
