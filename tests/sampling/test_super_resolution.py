import numpy as np

from iddpm_jax.sampling.super_resolution import bilinear, comparison_grid


def test_bilinear_keeps_what_is_constant_and_interpolates_the_rest():
    small = np.full((1, 2, 2, 1), 7, np.uint8)
    small[0, :, 1] = 107
    large = bilinear(small, 4)
    assert large.dtype == np.uint8
    np.testing.assert_array_equal(large[0, 0, :, 0], [7, 32, 82, 107])


def test_comparison_grid_shows_each_image_with_what_is_made_of_it():
    small = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * 10
    results = np.full((4, 32, 32, 1), 100, np.uint8)
    originals = results + 50
    grid = comparison_grid(small, results, originals)
    assert grid.shape == (4 * 34 + 2, 4 * 34 + 2, 3)
    middles = grid[19::34, 19::34, 0]
    np.testing.assert_array_equal(middles, [[i, i, 100, 150] for i in (0, 10, 20, 30)])


def test_comparison_grid_puts_several_groups_into_a_row():
    grid = comparison_grid(np.zeros((11, 4, 4, 1), np.uint8), np.zeros((11, 32, 32, 1), np.uint8))
    assert grid.shape == (6 * 34 + 2, 6 * 34 + 2, 3)
    assert (grid[-34 + 16, -34 + 16] == 255).all()  # There are only eleven.
