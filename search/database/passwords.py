"""Passwords as the store keeps them: scrypt with a salt of its own for each (RFC 7914)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from spaces.errors import InputError

COST, BLOCK, LANES = 2**15, 8, 1  # 32 MiB and 0.1 s on one core: docs/decisions/0058
LENGTH = (8, 1000)  # characters; the upper limit keeps the form of /login small
_SALT, _DIGEST = 16, 32  # bytes


def check_password(password: str, what: str) -> str:
    """Return a password as it is.

    Args:
        what: it is, for messages, which show nothing of it.

    Raises:
        InputError: it is too short or too long, or no UTF-8 text.
    """
    low, high = LENGTH
    if not low <= len(password) <= high:
        raise InputError(f"{what} must have {low} to {high} characters, but has {len(password)}")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise InputError(f"{what} must be UTF-8 text")
    return password


def hashed(password: str) -> str:
    """Return `scrypt$COST$BLOCK$LANES$SALT$DIGEST`, the last two in base64."""
    salt = secrets.token_bytes(_SALT)
    digest = _scrypt(password, salt, COST, BLOCK, LANES)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return "$".join(("scrypt", str(COST), str(BLOCK), str(LANES), *encoded))


def matches(password: str, stored: str | None) -> bool:
    """Whether a password is the stored one. Takes as long where none is stored: then it is not."""
    parts = (stored or _NOBODYS).split("$")
    cost, block, lanes = map(int, parts[1:4])
    salt, digest = (base64.b64decode(part) for part in parts[4:])
    right = hmac.compare_digest(_scrypt(password, salt, cost, block, lanes), digest)
    return right and stored is not None


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    room = 128 * cost * block + 128 * block * (lanes + 2) + 2**20  # bytes; 32 MiB are not allowed
    return hashlib.scrypt(
        password.encode(), salt=salt, n=cost, r=block, p=lanes, maxmem=room, dklen=_DIGEST
    )


_NOBODYS = "$".join(
    (
        "scrypt",
        *map(str, (COST, BLOCK, LANES)),
        *(base64.b64encode(bytes(size)).decode() for size in (_SALT, _DIGEST)),
    )
)
