"""What a run needs, computed from the layer table without the network itself: operations, gradients, memory, disk.

Nothing here imports a compiler: a prediction is printed at once.
"""
