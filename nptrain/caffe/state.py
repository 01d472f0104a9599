"""The solver's state: Caffe's .solverstate files."""

from dataclasses import dataclass

import numpy as np

from nptrain.caffe import caffe_pb2
from nptrain.caffe.blobs import blob_array, fill_blob, read_message
from nptrain.errors import InputError
from nptrain.files import atomic_write


@dataclass(frozen=True)
class SolverState:
    """What Caffe saves beside the weights: `iteration` updates were made, `history` is their momentum.

    `learned_net` names the .caffemodel file; `history` holds an array (float32 or float64) per parameter,
    in the order of the layers; `current_step` counts the drops of the policies step, multistep and plateau,
    the last two are plateau's (nptrain.schedule.Progress).
    """

    iteration: int
    learned_net: str
    history: list[np.ndarray]
    current_step: int = 0
    minimum_loss: float = 1e38
    iter_last_event: int = 0


def read_solverstate(path):
    """Read a SolverState; raises InputError for a file that is missing, damaged or of another kind."""
    message = read_message(path, caffe_pb2.SolverState)
    if not message.HasField("iter"):
        raise InputError(f"{path}: holds no iteration: not a .solverstate file")
    history = [blob_array(blob, f"{path}: history blob {k}") for k, blob in enumerate(message.history)]
    plateau = message.current_step, message.minimum_loss, message.iter_last_event
    return SolverState(message.iter, message.learned_net, history, *plateau)


def write_solverstate(path, state):
    """Write a SolverState; the file is replaced whole or not at all."""
    with atomic_write(path) as file:
        head = caffe_pb2.SolverState(
            iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step,
            minimum_loss=state.minimum_loss, iter_last_event=state.iter_last_event,
        )  # fmt: skip
        file.write(head.SerializeToString())
        for array in state.history:  # messages written one after the other merge when read
            part = caffe_pb2.SolverState()
            fill_blob(part.history.add(), array)
            file.write(part.SerializeToString())
