"""The linear maps of Winograd's F(4x4, 3x3), on vectors of 16 channels or images held in registers.

For the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, arXiv 1509.09308):
    y = At [(G g Gt) * (Bt d B)] A
for a 3x3 kernel g, a 6x6 piece d of the input and 4x4 outputs y. The way back is the transposed maps in
reverse: the gradient of the kernel is Gt [(Bt d B) * (A dy At)] G.
"""

import numpy as np

from kernels.jit import jit
from kernels.vector import splat

TILE, POINTS = 4, 6  # outputs and inputs of a piece, along each side

B_T = np.array([
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
])  # fmt: skip
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
A_T = np.array([
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
])  # fmt: skip


@jit
def _number(value):
    return splat(np.float32(value))


@jit
def input_points(d0, d1, d2, d3, d4, d5):
    """Bt d: six values to six."""
    even, odd = d4 - _number(4) * d2, d3 - _number(4) * d1
    near, far = d4 - d2, _number(2) * (d3 - d1)
    return (
        _number(4) * d0 - _number(5) * d2 + d4, even + odd, even - odd, near + far, near - far,
        _number(4) * d1 - _number(5) * d3 + d5,
    )  # fmt: skip


@jit
def kernel_points(g0, g1, g2):
    """G g: three values to six."""
    sixth, both = _number(1 / 6) * g1, g0 + g2
    low, high = _number(1 / 24) * g0 + _number(1 / 6) * g2, _number(1 / 12) * g1
    outer = _number(-1 / 6) * both
    return _number(1 / 4) * g0, outer - sixth, outer + sixth, low + high, low - high, g2


@jit
def output_values(m0, m1, m2, m3, m4, m5):
    """At m: six values to four."""
    a, b, c, d = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + a + c, b + _number(2) * d, a + _number(4) * c, b + _number(8) * d + m5


@jit
def gradient_points(y0, y1, y2, y3):
    """A dy: four values to six."""
    a, b, c, d = y0 + y2, y1 + y3, y0 + _number(4) * y2, _number(2) * y1 + _number(8) * y3
    return y0, a + b, a - b, c + d, c - d, y3


@jit
def kernel_values(u0, u1, u2, u3, u4, u5):
    """Gt u: six values to three."""
    near, far, step = u1 + u2, u3 + u4, u3 - u4
    return (
        _number(1 / 4) * u0 - _number(1 / 6) * near + _number(1 / 24) * far,
        _number(1 / 6) * (u2 - u1) + _number(1 / 12) * step,
        _number(1 / 6) * (far - near) + u5,
    )
