"""The linear maps of Winograd's F(4x4, 3x3), on vectors of 16 channels or images held in registers.

    y = At [(G g Gt) * (Bt d B)] A
for a 3x3 kernel g, 6x6 pixels d of the input and 4x4 outputs y (Lavin and Gray, arXiv 1509.09308). The gradient uses
the transposed maps in reverse order: that of the kernel is Gt [(Bt d B) * (A dy At)] G.

The points of interpolation are 0, a, -a, b, -b and infinity with a = 5/8, b = 3/2, whose powers float32 holds
exactly. They give half the error of the usual 1 and 2, which spread the sizes of the terms further apart (how that
matters: Barabasz et al., arXiv 1803.10986). The maps here have one dimension; each is used along both.
"""

import numpy as np

from kernels.jit import jit
from kernels.vector import fused, splat

A1, B1 = 5 / 8, 3 / 2
A2, B2 = A1**2, B1**2
A3, B3 = A1**3, B1**3
BOTH, PRODUCT = A2 + B2, A2 * B2
NEAR, FAR = 1 / (2 * A2 * (A2 - B2)), 1 / (2 * B2 * (B2 - A2))  # 1 / the product of the distances to other points

A_T = np.array([
    [1, 1, 1, 1, 1, 0],
    [0, A1, -A1, B1, -B1, 0],
    [0, A2, A2, B2, B2, 0],
    [0, A3, -A3, B3, -B3, 1],
])  # fmt: skip
G = np.array([
    [1 / PRODUCT, 0, 0],
    [NEAR, NEAR * A1, NEAR * A2],
    [NEAR, -NEAR * A1, NEAR * A2],
    [FAR, FAR * B1, FAR * B2],
    [FAR, -FAR * B1, FAR * B2],
    [0, 0, 1],
])  # fmt: skip
B_T = np.array([
    [PRODUCT, 0, -BOTH, 0, 1, 0],
    [0, -A1 * B2, -B2, A1, 1, 0],
    [0, A1 * B2, -B2, -A1, 1, 0],
    [0, -B1 * A2, -A2, B1, 1, 0],
    [0, B1 * A2, -A2, -B1, 1, 0],
    [0, PRODUCT, 0, -BOTH, 0, 1],
])  # fmt: skip


@jit
def _times(number, vector):
    """number * vector, in float32."""
    return splat(np.float32(number)) * vector


@jit
def _plus(number, vector, rest):
    """number * vector + rest, in float32, rounded once."""
    return fused(splat(np.float32(number)), vector, rest)


@jit
def input_points(d0, d1, d2, d3, d4, d5):
    """Bt d: six values to six."""
    even_a, odd_a = _plus(-B2, d2, d4), _times(A1, _plus(-B2, d1, d3))
    even_b, odd_b = _plus(-A2, d2, d4), _times(B1, _plus(-A2, d1, d3))
    return (
        _plus(PRODUCT, d0, _plus(-BOTH, d2, d4)), even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b,
        _plus(PRODUCT, d1, _plus(-BOTH, d3, d5)),
    )  # fmt: skip


@jit
def kernel_points(g0, g1, g2):
    """G g: three values to six."""
    even_a, odd_a = _times(NEAR, _plus(A2, g2, g0)), _times(NEAR * A1, g1)
    even_b, odd_b = _times(FAR, _plus(B2, g2, g0)), _times(FAR * B1, g1)
    return _times(1 / PRODUCT, g0), even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2


@jit
def output_values(m0, m1, m2, m3, m4, m5):
    """At m: six values to four."""
    even_a, odd_a, even_b, odd_b = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return (
        m0 + even_a + even_b, _plus(A1, odd_a, _times(B1, odd_b)), _plus(A2, even_a, _times(B2, even_b)),
        _plus(A3, odd_a, _plus(B3, odd_b, m5)),
    )  # fmt: skip


@jit
def gradient_points(y0, y1, y2, y3):
    """A dy: four values to six."""
    even_a, odd_a = _plus(A2, y2, y0), _plus(A1, y1, _times(A3, y3))
    even_b, odd_b = _plus(B2, y2, y0), _plus(B1, y1, _times(B3, y3))
    return y0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y3


@jit
def kernel_values(u0, u1, u2, u3, u4, u5):
    """Gt u: six values to three."""
    even_a, odd_a, even_b, odd_b = u1 + u2, u1 - u2, u3 + u4, u3 - u4
    return (
        _plus(1 / PRODUCT, u0, _plus(NEAR, even_a, _times(FAR, even_b))),
        _plus(NEAR * A1, odd_a, _times(FAR * B1, odd_b)),
        _plus(NEAR * A2, even_a, _plus(FAR * B2, even_b, u5)),
    )  # fmt: skip
