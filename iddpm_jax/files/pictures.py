"""Pictures: samples as 8-bit images, laid out in grids.

Axis letters: N images, H W C image.
"""

import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from iddpm_jax.files.atomic import replacing

_BACKGROUND = 255
_MIN_CELL = 32  # Smaller images are enlarged by whole factors, or nobody could see them.
_GAP = 2
_NAME_LENGTH = 60
_NOT_SHOWN = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def make_grid(images: np.ndarray, columns: int, row_names: Sequence[str] = ()) -> np.ndarray:
    """Lays images out row by row.

    Args:
      images: uint8 `[N, H, W, C]`; one channel is shown as grey, three as RGB, and of two or
        four the first, or the first three.
      columns: images per row.
      row_names: written to the left of each row.

    Returns:
      uint8 `[height, width, 3]`.
    """
    images = np.asarray(images)
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
    factor = max(1, math.ceil(_MIN_CELL / min(images.shape[1:3])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = images.shape
    rows = math.ceil(count / columns)
    cell_h, cell_w = height + _GAP, width + _GAP
    grid = np.full((rows * cell_h + _GAP, columns * cell_w + _GAP, 3), _BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * cell_h + _GAP, (i % columns) * cell_w + _GAP
        grid[top : top + height, left : left + width] = image
    return _name_rows(grid, row_names, cell_h) if row_names else grid


def _name_rows(grid: np.ndarray, names: Sequence[str], cell_h: int) -> np.ndarray:
    # Names come from files of others: a line of them is drawn, and no longer one than fits.
    names = [_NOT_SHOWN.sub(" ", name)[:_NAME_LENGTH] for name in names]
    size = max(10, min(20, cell_h // 2))
    font = ImageFont.load_default(size)
    margin = math.ceil(max(font.getlength(name) for name in names)) + 8
    canvas = Image.new("RGB", (grid.shape[1] + margin, grid.shape[0]), (_BACKGROUND,) * 3)
    canvas.paste(Image.fromarray(grid), (margin, 0))
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(names):
        middle = row * cell_h + _GAP + cell_h // 2
        draw.text((margin - 4, middle), name, fill=(0, 0, 0), font=font, anchor="rm")
    return np.asarray(canvas)


def save_png(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes uint8 `[H, W, 3]` in one atomic move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def class_grid(
    images: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str]
) -> np.ndarray:
    """A grid with one row for each class that occurs, or a square without labels.

    Args:
      images: uint8 `[N, H, W, C]`.
      labels: int `[N]`, or None.
      class_names: names by label.

    Returns:
      uint8 `[height, width, 3]`.
    """
    if labels is None:
        return make_grid(images, max(1, math.isqrt(len(images))))
    present = np.unique(labels)
    rows = [images[labels == label] for label in present]
    columns = max(len(row) for row in rows)
    # Rows that are short are filled up with the background.
    filled = [
        np.pad(r, ((0, columns - len(r)),) + ((0, 0),) * 3, constant_values=_BACKGROUND)
        for r in rows
    ]
    return make_grid(np.concatenate(filled), columns, [class_names[label] for label in present])


def save_gif(path: pathlib.Path, frames: Sequence[np.ndarray], seconds: float) -> None:
    """Writes uint8 frames `[H, W, 3]` as an endless film; the last frame stays for a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    each = round(1000 * seconds / len(frames))
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [each] * (len(frames) - 1) + [1000]
    with replacing(path) as file:
        pictures[0].save(
            file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
        )
