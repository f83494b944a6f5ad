#!/usr/bin/env python3
"""Entrypoint of segtune's images: reads the store's password from its secret file, runs a command.

The password reaches libpq as $PGPASSWORD, in the environment of that command alone: it needs no
encoding there, and stands neither in the store's URL nor in `docker inspect` nor on a command line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

PASSWORD_FILE = "PGPASSWORD_FILE"


def main() -> NoReturn:
    command = sys.argv[1:]
    if not command:
        _refuse("it was given no command to run, as in: segtune-entrypoint segtune status")
    os.environb[b"PGPASSWORD"] = _password()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"segtune-entrypoint: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _password() -> bytes:
    """The secret without its last line breaks, as the postgres image reads the same file."""
    path = os.environ.get(PASSWORD_FILE)
    if not path:
        _refuse(f"{PASSWORD_FILE} must name the file of the store's password, but is not set")
    try:
        secret = Path(path).read_bytes().rstrip(b"\n")
    except (FileNotFoundError, IsADirectoryError):  # the engine may make a folder of a missing file
        _refuse(
            f"the secret {path} is missing; create its file on the host, see docs/deployment.md"
        )
    except OSError as error:
        _refuse(
            f"the secret {path} cannot be read by uid {os.geteuid()}: {error.strerror}; "
            "on the host: chmod 644 FILE (its folder keeps others out)"
        )
    if not secret:
        _refuse(f"the secret {path} is empty; write a password into its file on the host")
    if any(byte in secret for byte in b"\n\r\0"):
        _refuse(f"the secret {path} must be one line of text")
    return secret


def _refuse(message: str) -> NoReturn:
    print(f"segtune-entrypoint: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
