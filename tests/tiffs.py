"""TIFF files of any number of channels, which neither Pillow nor OpenCV writes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

KINDS = {"u": 1, "i": 2, "f": 3}


def write_tiff(path: Path, values: np.ndarray, *, grey: bool = False, planes: bool = False) -> None:
    """Write (H, W, C) as it is, without compression; little-endian.

    Args:
        grey: as bands of which the first one is grey, as GDAL does; else RGB and more.
        planes: channel by channel, and not pixel by pixel.
    """
    height, width, channels = values.shape
    values = values.astype(values.dtype.newbyteorder("<"))
    data = (values.transpose(2, 0, 1) if planes else values).tobytes()
    parts = channels if planes else 1
    entries = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * values.itemsize] * channels),
        259: ("H", [1]),
        262: ("H", [1 if grey else 2]),
        273: ("I", [0] * parts),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(data) // parts] * parts),
        284: ("H", [2 if planes else 1]),
        338: ("H", [0] * (channels - (1 if grey else 3))),
        339: ("H", [KINDS[values.dtype.kind]] * channels),
    }
    entries = {tag: entry for tag, entry in entries.items() if entry[1]}
    packed = {tag: struct.pack(f"<{len(v)}{kind}", *v) for tag, (kind, v) in entries.items()}
    after = 8 + 2 + 12 * len(entries) + 4
    start = after + sum(len(part) for part in packed.values() if len(part) > 4)
    offsets = [start + len(data) // parts * part for part in range(parts)]
    packed[273] = struct.pack(f"<{parts}I", *offsets)
    lines, tail = b"", b""
    for tag, (kind, listed) in entries.items():
        content = packed[tag]
        if len(content) > 4:
            content, tail = struct.pack("<I", after + len(tail)), tail + content
        lines += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(listed))
        lines += content.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    path.write_bytes(head + lines + struct.pack("<I", 0) + tail + data)
