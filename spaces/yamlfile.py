"""YAML with line numbers: strict, data-only, and with the number forms that people write.

PyYAML's own loader reads `1e-5` as a string, `no` as False and lets a repeated key win silently;
each of these has cost somebody a training run. So the node tree is read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from spaces.errors import InputError
from spaces.textfile import read_bytes

Key = tuple[str | int, ...]

MAX_BYTES = 1_000_000  # bytes; a study file is a few kB
MAX_DEPTH = 50
MAX_OPEN = 200  # brackets; PyYAML looks at each of those that are open for every word
MAX_DIGITS = 400  # longer numbers than a float can hold
MAX_NODES = 50_000  # aliases can multiply a small file without bound
MAX_CHARACTERS = MAX_BYTES  # of all texts together, as aliases multiply them too

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SCALAR_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("null", "bool", "int", "float", "str", "timestamp", "value", "merge")
}
_SPECIAL = {".nan": math.nan, ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf}


def dump_yaml(data: Any, **options: Any) -> str:
    """Return plain data as YAML that is read back here as it was.

    PyYAML alone leaves texts bare that are numbers here, as in 08 or 1e-5.

    Args:
        options: those of `yaml.dump`, as in `width=90`.
    """
    given = {"sort_keys": False, "allow_unicode": True, **options}
    text: str = yaml.dump(data, Dumper=_Dumper, **given)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would not be read as one."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    other = len(text) > MAX_DIGITS or not isinstance(_bare(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if other else None)


_Dumper.add_representer(str, _text)


def _bare(text: str) -> Any:
    """What a text of at most MAX_DIGITS means that stands without quotes."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


@dataclass
class Document:
    """The plain data of one YAML file and the line (from 1) of every key and item in it."""

    data: Any
    source: str
    lines: dict[Key, int] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Return `file line N` for the key, or for the nearest enclosing key that has a line."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.source} line {self.lines[key]}" if key in self.lines else self.source


def read_yaml(path: Path) -> Document:
    """Read a YAML file of plain data.

    Raises:
        InputError: the file is missing, too large, not UTF-8, not YAML, has a repeated key or a
            tag (`!!python/...`); the message names file and line.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, but a YAML file is needed")
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        raise InputError(f"{path} line {line}: not UTF-8 text; save the file as UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """Parse YAML text; `source` is the name shown in errors. Raises as `read_yaml`."""
    document = Document(None, source)
    if _open_brackets(text) > MAX_OPEN:
        raise InputError(f"{source}: lists or mappings are nested too deep")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.data = _Reader(document).read(node, ())
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source}{line}: not valid YAML: {_explain(error)}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{source}: lists or mappings are nested too deep") from None
    return document


def mapping(document: Document) -> dict[str, Any]:
    """The content of a file that must be `key: value` lines; else InputError."""
    if not isinstance(document.data, dict):
        kind = "is empty" if document.data is None else "is not a mapping"
        raise InputError(f"{document.source}: the file {kind}; it must have `key: value` lines")
    return document.data


def _open_brackets(text: str) -> int:
    """How many are open at once, at most; those in quotes and comments are counted too."""
    most = now = 0
    for found in re.finditer(r"[\[{]+|[\]}]+", text):
        size = len(found[0])
        now = now + size if found[0][0] in "[{" else max(0, now - size)
        most = max(most, now)
    return most


def _explain(error: yaml.MarkedYAMLError) -> str:
    """What PyYAML found, where the construct began, and the fix where it is known."""
    found = str(error.problem)
    if error.context and error.context_mark:
        found = f"{error.context} (line {error.context_mark.line + 1}), {found}"
    return f"{found}; indent with spaces" if "'\\t'" in found else found


class _Reader:
    """Turns nodes into plain data and notes their lines."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = self.characters = 0

    def read(self, node: yaml.Node, key: Key) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise InputError(f"{self.document.source}: more than {MAX_NODES} values")
        if len(key) > MAX_DEPTH:
            raise self._error(node, f"more than {MAX_DEPTH} levels; does an alias hold itself?")
        self.document.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "tag:yaml.org,2002:seq")
            return [self.read(item, (*key, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        self._check_tag(node, "tag:yaml.org,2002:map")
        result: dict[str, Any] = {}
        first: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be plain text")
            name = str(key_node.value)
            if name in first:
                found = f"the key {name} stands twice (first on line {first[name]}); keep one"
                raise self._error(key_node, found)
            first[name] = line = key_node.start_mark.line + 1
            self.document.lines[(*key, name)] = line
            result[name] = self.read(value_node, (*key, name))
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        assert isinstance(node, yaml.ScalarNode)
        if node.tag not in _SCALAR_TAGS:
            self._check_tag(node, "plain")
        text = str(node.value)
        self.characters += len(text)
        if self.characters > MAX_CHARACTERS:
            raise self._error(node, f"more than {MAX_CHARACTERS} characters, aliases included")
        if node.style in ("'", '"', "|", ">"):
            return text
        if len(text) > MAX_DIGITS:
            if set(text) <= set("0123456789_.eE+-"):
                raise self._error(node, f"a number of {len(text)} digits; at most {MAX_DIGITS}")
            return text
        return _bare(text)

    def _check_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag != expected:
            tag = str(node.tag).replace("tag:yaml.org,2002:", "!!")
            raise self._error(node, f"the tag {tag} is refused; a study file holds plain data only")

    def _error(self, node: yaml.Node, message: str) -> InputError:
        line = node.start_mark.line + 1
        return InputError(f"{self.document.source} line {line}: {message}")
