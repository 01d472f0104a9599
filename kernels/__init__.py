"""Numeric kernels on NumPy arrays: `fast` (Numba, blocked layout, float32) and `naive`, the NumPy twin that defines
each of them. They know shapes; no network, no files, no ranks.

Words that mean the same in every file:

    lane      one of the 16 numbers of a vector; one channel of a block
    block     16 channels, filled up with zeros, as `layout` stores them: c_blocks of inputs, k_blocks of outputs
    pixel     one place of one image, its 16 channels of a block
    tile      the 4x4 pixels of a result that Winograd's algorithm computes together
    register tile   the sums that a kernel keeps in registers (`tiles`)
    task      what a thread computes without a break: one iteration of a parallel loop
    piece     a range of pixels (also of rows, of tiles, or of a flat array) that belongs to one task. Sums over all
              pixels are taken of each piece alone, and then over the pieces in their order
    part      a range of blocks of outputs that belongs to one task: all tasks of a convolution are pieces x parts
    band      rows of a piece that stay in a core's cache while all pairs of blocks are computed from them
    round     tiles that Winograd's gradient of weights transforms before it multiplies them
    epilogue  what a convolution does to its result while that is still in a core's cache

Pieces depend on shapes alone. So every number of threads computes the same bits.
"""
