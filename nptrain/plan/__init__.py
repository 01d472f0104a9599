"""What a run needs, counted from the layer table without building the network: operations, gradients, memory, disk.

Nothing here imports kernels or compiles: a prediction is printed at once.
"""
