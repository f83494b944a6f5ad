"""What may stand at a place of a study file, by the JSON Schema of study files.

What somebody is writing is seldom YAML. So it is not parsed: lines and their indentation say what
the place belongs to, and on its own line the brackets that are open.
"""

from __future__ import annotations

import json
import re
import string
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from spaces.schema import study_schema

ABOUT = 90  # characters of a description
MOST_OPEN = 8  # brackets in each other; no study file has so many
ITEM = "[]"  # in a path: an item of a list

_LETTERS = f"{string.ascii_letters}{string.digits}_.+-"  # of words, which page.js knows too
_KEY = r"""([\w.-]+|'[^']*'|"[^"]*")"""
_LINE = re.compile(rf"( *)(- +)?(?:{_KEY}:(?=\s|$))?")
_TOKEN = re.compile(r"""'[^']*'|"[^"]*"|[{}\[\],'"]|:(?=\s)|(?:[^\s{}\[\],:'"]|:(?!\s))+""")


@dataclass(frozen=True)
class Completion:
    """A word that may stand where the caret is.

    Attributes:
        word: in place of the one that is begun there, with the colon of a key.
        about: what a key is for.
    """

    word: str
    about: str = ""


@dataclass(frozen=True)
class Offer:
    """What may stand somewhere, what fits best first; `about` is of the key whose value it is."""

    completions: tuple[Completion, ...] = ()
    about: str = ""


NOTHING = Offer()


@dataclass
class _Place:
    """What a caret stands in.

    Attributes:
        path: keys from the top of the file on, and ITEM.
        is_key: a key belongs there; else a value.
        taken: the keys or items that are there already.
    """

    path: tuple[str, ...]
    is_key: bool
    begun: str
    taken: set[str] = field(default_factory=set)


def complete(text: str, caret: int) -> Offer:
    """Return what may stand at the caret, in place of the word that ends there.

    Args:
        text: of a study file, in any state.
        caret: 0..len(text), characters before it.
    """
    below = text[caret:].split("\n")
    if below[0][:1] and below[0][0] in _LETTERS:  # within a word
        return NOTHING
    place = _place(text[:caret].split("\n"), below[1:])
    if place is None:
        return NOTHING
    nodes = _beginnings(text)
    for step in place.path:
        nodes = [child for node in _plain(nodes) for child in _children(node, step)]
    about = ""
    if place.is_key:
        colon = "" if below[0].lstrip(" ").startswith(":") else ": "
        found = {name: _about(child) for name, child in _properties(nodes)}
    else:
        colon = ""
        found = dict.fromkeys(_values(nodes), "")
        about = next(filter(None, map(_described, nodes)), "")
    begun = place.begun.lower()
    if begun in map(str.lower, found):
        return NOTHING
    fits = [word for word in found if begun in word.lower() and word not in place.taken]
    fits.sort(key=lambda word: (not word.lower().startswith(begun), f".{begun}" not in word))
    return Offer(tuple(Completion(f"{word}{colon}", found[word]) for word in fits), about)


# ---------------------------------------------------------------- where the caret is


def _place(before: list[str], below: list[str]) -> _Place | None:
    """None where nothing is known, as in comments and quotes.

    Args:
        before: lines; the last one ends at the caret.
        below: the lines behind that of the caret.
    """
    *above, line = before
    if re.search(r"(^|\s)#", line):
        return None
    head = _LINE.match(line)
    assert head is not None
    indent, is_item = len(head[1]), head[2] is not None
    path = _parents(above, indent, is_item)
    if path is None:
        return None
    rest = line[head.end() :]
    if head[3] is None:
        path = (*path, ITEM) if is_item else path
        if not is_item and not rest.startswith(("{", "[")):
            taken = {*_siblings(reversed(above), indent), *_siblings(below, indent)}
            return None if rest.strip(_LETTERS) else _Place(path, True, rest, taken)
    else:
        path = (*path, _bare(head[3]))
        if not rest:  # a value needs a space behind the colon
            return None
    return _in_brackets(path, rest)


def _parents(above: Sequence[str], indent: int, is_item: bool) -> tuple[str, ...] | None:
    """The keys that a line of this indentation belongs to; None where one of them is none."""
    path: list[str] = []
    for line in reversed(above):
        if indent == 0 and not is_item:
            break
        found = _LINE.match(line)
        assert found is not None
        level = len(found[1])
        holds = level < indent or (is_item and level == indent and found[2] is None)
        if holds and not _is_bare(line):
            if found[3] is None:
                return None
            path.append(_bare(found[3]))
            indent, is_item = level, False
    return tuple(reversed(path))


def _siblings(lines: Iterator[str] | Sequence[str], indent: int) -> Iterator[str]:
    """The keys of the lines that belong to the same mapping, from the caret on."""
    for line in lines:
        found = _LINE.match(line)
        assert found is not None
        if _is_bare(line) or len(found[1]) > indent:
            continue
        if len(found[1]) < indent:
            return
        if found[3] is not None:
            yield _bare(found[3])


def _is_bare(line: str) -> bool:
    """Whether a line is empty, or a comment."""
    return line.strip()[:1] in ("", "#")


def _bare(key: str) -> str:
    return key.strip("'\"")


@dataclass
class _Bracket:
    """One that is open.

    Attributes:
        key: whose value comes.
        words: its keys or items so far.
    """

    path: tuple[str, ...]
    is_map: bool
    key: str | None = None
    words: set[str] = field(default_factory=set)

    @property
    def inside(self) -> tuple[str, ...]:
        return (*self.path, (self.key or "") if self.is_map else ITEM)


def _in_brackets(path: tuple[str, ...], rest: str) -> _Place | None:
    """The place at the end of a value that has begun on this line."""
    head = rest.rstrip(_LETTERS)
    begun, last = rest[len(head) :], ""
    brackets: list[_Bracket] = []
    for token in _TOKEN.findall(head):
        top = brackets[-1] if brackets else None
        if token in ("'", '"') or (token in ("}", "]", ",", ":") and top is None):
            return None
        if len(brackets) > MOST_OPEN:
            return None
        if token in ("{", "["):
            brackets.append(_Bracket(top.inside if top else path, token == "{"))
        elif token in ("}", "]"):
            brackets.pop()
        elif top is not None and token == ":":
            top.key = _bare(last)
            top.words.add(top.key)
        elif top is not None and token == ",":
            top.key = None
        elif top is not None and not top.is_map:
            top.words.add(_bare(token))
        last = token
    if last not in ("", "{", "[", ",", ":"):  # behind a word or a bracket that is closed
        return None
    if not brackets:
        return _Place(path, False, begun)
    top = brackets[-1]
    if top.is_map and top.key is None:
        return _Place(top.path, True, begun, top.words)
    return _Place(top.inside, False, begun, set() if top.is_map else top.words)


# ---------------------------------------------------------------- what the schema says of it


@cache
def _schema() -> dict[str, Any]:
    return study_schema()


def _beginnings(text: str) -> list[dict[str, Any]]:
    """The schema of the task that a text names, else of all."""
    tasks: dict[str, dict[str, Any]] = {
        one["properties"]["task"]["const"]: one for one in _schema()["oneOf"]
    }
    named = re.search(r"^task: *(\w+) *(?:#.*)?$", text, re.MULTILINE)
    return [tasks[named[1]]] if named and named[1] in tasks else list(tasks.values())


def _plain(nodes: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The alternatives that nodes stand for, each without others in it."""
    for node in nodes:
        yield from (one for one in _within(node) if not {"$ref", "anyOf"} & one.keys())


def _within(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node, what it refers to, and its alternatives."""
    yield node
    named = [_schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]]] if "$ref" in node else []
    for one in (*named, *node.get("anyOf", [])):
        yield from _within(one)


def _children(node: dict[str, Any], step: str) -> Iterator[dict[str, Any]]:
    child = node.get("items") if step == ITEM else node.get("properties", {}).get(step)
    if child is not None:
        yield child


def _properties(nodes: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in _plain(nodes):
        yield from node.get("properties", {}).items()


def _values(nodes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The values that can be listed, as YAML writes them."""
    for node in _plain(nodes):
        listed = {"boolean": [True, False], "null": [None]}.get(str(node.get("type")), [])
        known: list[Any] = node.get("enum", [node["const"]] if "const" in node else listed)
        yield from (one if isinstance(one, str) else json.dumps(one) for one in known)


def _described(node: dict[str, Any]) -> str:
    """What a value is for, in short."""
    said = next((one["description"] for one in _within(node) if "description" in one), "")
    return textwrap.shorten(said, ABOUT, placeholder=" ...")


def _about(node: dict[str, Any]) -> str:
    """The same; where nothing describes it, what it may be, or is by default."""
    if said := _described(node):
        return said
    if known := [value for value in _values([node]) if value != "null"]:
        return textwrap.shorten(", ".join(known), ABOUT, placeholder=" ...")
    default = next((one["default"] for one in _within(node) if "default" in one), None)
    return "" if default is None else f"default: {json.dumps(default)}"
