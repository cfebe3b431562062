"""Decoding many images at once, with a bar where that takes a while."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

_SHOW_BAR_FROM = 1000


def decode_all(decode: Callable[[int], None], count: int) -> None:
    """Calls `decode` for 0 to count - 1, in threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done, quiet = pool.map(decode, range(count)), count < _SHOW_BAR_FROM
        for _ in tqdm(done, "decoding images", count, disable=quiet, mininterval=1.0):
            pass
