"""What a run needs, computed from the layer table without the network itself: operations, gradients, memory, disk.

Nothing here imports kernels, so a prediction takes less than a second.
"""
