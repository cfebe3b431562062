"""Files that are there whole or not at all."""

import io
import json
import os
import pathlib
from typing import Any

import numpy as np


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file in one atomic move."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_bytes(data)
    os.replace(scratch, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file in one atomic move."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def npz_bytes(*arrays: np.ndarray, **named: np.ndarray) -> bytes:
    """What `np.savez` would write: `arr_0`, `arr_1`, … and the named ones."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays, **named)
    return buffer.getvalue()
