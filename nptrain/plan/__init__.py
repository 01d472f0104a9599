"""What a run needs, counted from the layer table without building the network: operations, gradients, memory, disk.

Nothing here imports a compiler: a prediction is printed at once.
"""
