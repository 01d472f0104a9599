"""Which kernel taps meet the image, for one output row or column of a convolution."""

from kernels.jit import jit


@jit
def taps(out, scale, offset, direction, divisor, kernel, size):
    """The taps r of a kernel whose input index (out * scale + offset + direction * r) / divisor exists.

    out     row (or column) of the result
    kernel  rows of the kernel
    size    rows of the input
    scale, offset, direction, divisor   a forward pass has input = out * stride - pad + r; the gradient of data
            reverses this, input = (out + pad - r) / stride

    Returns (first tap, number of taps, input index of the first); the following taps are `divisor` apart, their inputs
    `direction`.
    """
    first, count, start = 0, 0, 0
    for r in range(kernel):
        at = out * scale + offset + direction * r
        if at % divisor == 0 and 0 <= at // divisor < size:
            if count == 0:
                first, start = r, at // divisor
            count += 1
    return first, count, start
