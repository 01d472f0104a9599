"""The height (or width) of a result. Pixels, each."""


def convolved_size(size, kernel, stride, pad):
    """Of a convolution of a map of `size`, with `pad` rows of zeros on both sides."""
    return (size + 2 * pad - kernel) // stride + 1


def pooled_size(size, kernel=3, stride=2):
    """Of a pooling without padding in Caffe's ceil mode: the last window may exceed the border, where it is clipped."""
    return -(-(size - kernel) // stride) + 1
