"""3 × 3 convolutions with 2.25 times fewer multiplications, for CPUs (Lavin & Gray 2016).

A tile of 2 × 2 outputs comes from 4 × 4 inputs d and the kernel g. F(2 × 2, 3 × 3) has it as

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,

in which ⊙ multiplies 16 pairs of numbers, where the definition multiplies 36. With channels these
are 16 matrix products over all tiles; the transformations around them only add. The result
differs from the definition's by as much as another order of summation would make it differ.

Axis letters: B batch, H W image, h w tiles (half of H and W), C and O channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

Grid = Sequence[Sequence[jax.Array]]
Images = Float[Array, "b H W c"]
ImagesLike = Float[Array | np.ndarray, "b H W c"]
Kernel = Float[Array, "3 3 c o"]
KernelLike = Float[Array | np.ndarray, "3 3 c o"]
Output = Float[Array, "b H W o"]
# What is asked for its shape and dtype only.
AnyShape = Shaped[Array | np.ndarray | jax.ShapeDtypeStruct, "..."]

# Tiles that are transformed at a time: as many as stay in the cache until they are multiplied.
_TILES = 1024
# With fewer than these the products are slow enough for it to pay to fill a part up.
_FEWEST_TILES = 64


# What flax's nn.Conv asks for, beside x and kernel, to convolve images with 3 × 3, padded by 1.
_SAME_PADDING = {
    "window_strides": (1, 1),
    "padding": ((1, 1), (1, 1)),
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": jax.lax.conv_dimension_numbers(
        (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
    ),
    "feature_group_count": 1,
    "precision": None,
}


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, by Winograd's algorithm where nn.Conv asks for what it does.

    What it computes so has no forward-mode derivatives (`jax.jvp`).
    """
    given = {"window_strides": tuple(window_strides), "padding": tuple(padding), **options}
    if given == _SAME_PADDING and fits(lhs, rhs):
        return convolve(lhs, rhs)
    return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def fits(x: AnyShape, kernel: AnyShape) -> bool:
    """Whether it pays to convolve x `[B, H, W, C]` with `[3, 3, C, O]` like this.

    The answer does not depend on B: an image has the same result in batches of any size.
    """
    if x.ndim != 4 or x.dtype != jnp.float32 or kernel.shape[:2] != (3, 3):
        return False
    return min(kernel.shape[2:]) >= 64 and not any(n % 2 or n < 8 for n in x.shape[1:3])


@jax.custom_vjp
@jax.jit  # So that equal shapes are traced once.
def convolve(x: Images, kernel: Kernel) -> Output:
    """The convolution of x with a kernel, padded by 1; H and W are even."""
    u = _both_axes(_g, kernel)
    return _join(jax.lax.map(lambda part: _filter(part, u), _cut(x)), x.shape[0])


def _forward(x: ImagesLike, kernel: KernelLike) -> tuple[Output, tuple[ImagesLike, KernelLike]]:
    return convolve(x, kernel), (x, kernel)


@jax.jit
def _backward(residuals: tuple[Images, Kernel], dy: Output) -> tuple[Images, Kernel]:
    """The gradients of x and of the kernel.

    That of x is dy convolved with the kernel turned round, whose G g Gᵀ is that of the kernel
    with its first and its last row and column exchanged.
    """
    x, kernel = residuals
    u = _both_axes(_g, kernel)
    order = (3, 1, 2, 0)
    turned = [[u[i][j].T for j in order] for i in order]

    def one_part(du, part):
        x, dy = part
        spread = _both_axes(_a, _every_second(dy, 2))
        more = _pairwise(lambda v, dm: _rows(v).T @ _rows(dm), _inputs(x), spread)
        return _pairwise(jnp.add, du, more), _filter(dy, turned)

    zeros = jax.tree.map(jnp.zeros_like, u)
    du, dx = jax.lax.scan(one_part, zeros, (_cut(x), _cut(dy)))
    return _join(dx, x.shape[0]), jnp.stack(
        [jnp.stack(row) for row in _both_axes(_g_transposed, du)]
    )


# As JAX declares them, functions of `jit` only raise, and so return `Never` for pyrefly.
convolve.defvjp(_forward, _backward)  # pyrefly: ignore[bad-argument-type]


def _filter(x: jax.Array, u: Grid) -> jax.Array:
    """Aᵀ [u ⊙ (Bᵀ d B)] A for all tiles of `[B, H, W, C]`; u: 4 × 4 of `[C, O]`."""
    shape = (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, -1)
    m = _pairwise(lambda v, u: (_rows(v) @ u).reshape(shape), _inputs(x), u)
    (top_left, top_right), (bottom_left, bottom_right) = _both_axes(_a_transposed, m)
    top = jnp.stack([top_left, top_right], axis=3)
    bottom = jnp.stack([bottom_left, bottom_right], axis=3)
    y = jnp.stack([top, bottom], axis=2)  # [B, h, 2, w, 2, O]
    return y.reshape(x.shape[:3] + y.shape[-1:])


def _inputs(x: jax.Array) -> Grid:
    """Bᵀ d B: 4 × 4 of `[B, h, w, C]`."""
    # Padded before it is cut: where padding is a part of the sums, they are not vectorised.
    return _both_axes(_b_transposed, _every_second(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), 4))


def _every_second(x: jax.Array, size: int) -> Grid:
    """Row i and column j of all tiles, `size` × `size` of `[B, h, w, C]`, tiles 2 apart."""
    height, width = x.shape[1] - size + 2, x.shape[2] - size + 2
    return [[x[:, i : i + height : 2, j : j + width : 2] for j in range(size)] for i in range(size)]


def _both_axes(f: Callable, grid: Grid | jax.Array) -> Grid:
    """F d Fᵀ of a grid d, where f(d₀, d₁, …) is F (d₀, d₁, …)ᵀ."""
    columns = [f(*column) for column in zip(*grid, strict=True)]
    return [list(f(*row)) for row in zip(*columns, strict=True)]


def _b_transposed(d0, d1, d2, d3):
    return d0 - d2, d1 + d2, d2 - d1, d3 - d1


def _g(g0, g1, g2):
    outer, inner = (g0 + g2) / 2, g1 / 2
    return g0, outer + inner, outer - inner, g2


def _g_transposed(u0, u1, u2, u3):
    outer = (u1 + u2) / 2
    return u0 + outer, (u1 - u2) / 2, outer + u3


def _a_transposed(m0, m1, m2, m3):
    return m0 + m1 + m2, m1 - m2 + m3


def _a(y0, y1):
    return y0, y0 + y1, y0 - y1, y1


def _pairwise(f: Callable, a: Grid, b: Grid) -> Grid:
    """f of every entry of one grid and its counterpart in another."""
    return [[f(p, q) for p, q in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _rows(x: jax.Array) -> jax.Array:
    """`[…, C]` as a matrix `[N, C]`."""
    return x.reshape(-1, x.shape[-1])


def _cut(x: jax.Array) -> jax.Array:
    """`[parts, n, H, W, C]` of `[B, H, W, C]`, filled up with zeros where n does not divide B."""
    size = _images_at_a_time(x.shape[0], x.shape[1] * x.shape[2] // 4)
    missing = -x.shape[0] % size
    if missing:
        x = jnp.pad(x, [(0, missing), (0, 0), (0, 0), (0, 0)])
    return x.reshape(-1, size, *x.shape[1:])


def _images_at_a_time(batch: int, tiles: int) -> int:
    """How many of a batch of images, of so many tiles each, to transform together.

    No more than have `_TILES` tiles, but one at least. A divisor of the batch, so that nothing is
    filled up, unless that leaves few tiles to multiply at a time, as of a prime number of images
    of 8 × 8.
    """
    most = max(1, _TILES // tiles)
    even = -(-batch // -(-batch // most))
    divisor = max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)
    return divisor if divisor * tiles >= _FEWEST_TILES else even


def _join(parts: jax.Array, batch: int) -> jax.Array:
    """Undoes `_cut`: `[parts, n, H, W, C]` to the first `batch` images."""
    return parts.reshape(-1, *parts.shape[2:])[:batch]
