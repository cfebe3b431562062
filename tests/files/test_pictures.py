import numpy as np
import pytest
from PIL import Image

from iddpm_jax.files.pictures import make_grid, save_png


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_make_grid_puts_images_in_rows(channels):
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40
    images = np.broadcast_to(images, (6, 40, 50, channels))
    grid = make_grid(images, columns=3)
    assert grid.shape == (2 * 42 + 2, 3 * 52 + 2, 3)
    centres = grid[22::42, 27::52, 0]
    np.testing.assert_array_equal(centres, [[0, 40, 80], [120, 160, 200]])


def test_make_grid_enlarges_small_images():
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 0, 0] = 200
    grid = make_grid(image, columns=1)
    assert grid.shape == (36, 36, 3)
    assert np.sum(grid == 200) == 4 * 4 * 3


def test_make_grid_names_rows():
    images = np.zeros((4, 32, 32, 1), np.uint8)
    plain, named = make_grid(images, 2), make_grid(images, 2, ("zero", "one"))
    margin = named.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(named[:, margin:], plain)
    assert (named[:35, :margin] < 128).any()
    assert (named[35:, :margin] < 128).any()


def test_save_png_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "samples" / "grid.png"
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_make_grid_draws_a_line_of_a_name_whatever_it_holds():
    images = np.zeros((2, 32, 32, 1), np.uint8)
    long, other = make_grid(images, 1, ("a" * 10**6, "b")), make_grid(images, 1, ("a" * 60, "b"))
    np.testing.assert_array_equal(long, other)
    make_grid(images, 1, ("two\nlines\0", "\ud800"))
