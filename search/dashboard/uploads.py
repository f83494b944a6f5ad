"""A form with a file, as browsers send it: multipart/form-data of few fields, read strictly.

optuna-dashboard's parser, bottle's, bounds neither parts nor the lines of their headers: 16 MiB of
either would take hundreds of MB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from wsgiref.types import WSGIEnvironment

from search.dashboard.forms import MAX_BODY
from spaces.errors import InputError

MOST_PARTS = 8
HEAD_BYTES = 2048  # of a part

_KIND = re.compile(
    r"""multipart/form-data; *boundary=(?:"([^"\r\n]{1,70})"|([\w'()+,./:=?-]{1,70}))""",
    re.ASCII | re.IGNORECASE,
)
_NAMED = re.compile(
    rb'^Content-Disposition: *form-data; *name="([^"\r\n]*)"(?:; *filename="([^\r\n]*)")? *\r?$',
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class SentFile:
    """A file of a form.

    Attributes:
        name: as the browser gives it; it may hold anything.
    """

    name: str
    content: bytes


def read_upload(
    environ: WSGIEnvironment, most: int
) -> tuple[dict[str, list[str]], dict[str, SentFile]]:
    """Return the fields of a posted form, and its files.

    Args:
        most: bytes of all files together.

    Raises:
        InputError: it is too large, or no such form.
    """
    length = environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch("[0-9]{1,12}", length) or int(length) > most + MAX_BODY:
        raise InputError(f"a file must have at most {most >> 20} MiB; send a smaller one")
    kind = _KIND.fullmatch(environ.get("CONTENT_TYPE", ""))
    if kind is None:
        raise InputError("the form must be sent as multipart/form-data, as a browser sends it")
    line = b"\r\n--" + (kind[1] or kind[2]).encode("latin-1")
    body = b"\r\n" + environ["wsgi.input"].read(int(length))
    before, *parts = body.split(line, MOST_PARTS + 1)
    if before or not parts or parts.pop().rstrip(b"\r\n") != b"--":
        raise InputError(f"the form is cut off, or has more than {MOST_PARTS} fields; send it anew")
    fields: dict[str, list[str]] = {}
    files: dict[str, SentFile] = {}
    room = MAX_BODY
    for part in parts:
        head, ends, content = part[: HEAD_BYTES + 4].partition(b"\r\n\r\n")
        found = _NAMED.findall(head)
        if not ends or len(found) != 1:
            raise InputError("a field of the form has no name, or too much beside it")
        name, filename = (text.decode("utf-8", "replace") for text in found[0])
        content = part[len(head) + 4 :]
        if b"filename=" in head:
            files[name] = SentFile(filename, content)
            continue
        room -= len(content)
        if room < 0:
            raise InputError(f"the fields of the form must have at most {MAX_BODY} bytes together")
        fields.setdefault(name, []).append(content.decode("utf-8", "replace"))
    return fields, files
