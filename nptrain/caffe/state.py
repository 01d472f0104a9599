"""The solver's state: Caffe's .solverstate files."""

from dataclasses import dataclass

import numpy as np

from nptrain.caffe import caffe_pb2
from nptrain.caffe.blobs import fill_blob, read_blob
from nptrain.caffe.wire import I32, LEN, VARINT, WireError, open_message, signed
from nptrain.errors import InputError
from nptrain.files import atomic_write

# of iter, learned_net, history, current_step, minimum_loss, iter_last_event
WIRE_TYPES = {1: VARINT, 2: LEN, 3: LEN, 4: VARINT, 5: I32, 6: VARINT}

NO_LOSS = float(np.float32(1e38))  # the default of minimum_loss


@dataclass(frozen=True)
class SolverState:
    """What Caffe saves beside the weights.

    iteration     number of updates so far
    learned_net   name of the .caffemodel file
    history       momentum: an array (float32 or float64) per parameter, in the order of the layers
    current_step  drops of the rate so far, of the policies step, multistep and plateau
    minimum_loss, iter_last_event  of the policy plateau, as in `nptrain.recipes.schedule.Progress`; of another policy,
                  the original's iter_last_event may be any number
    """

    iteration: int
    learned_net: str
    history: list[np.ndarray]
    current_step: int = 0
    minimum_loss: float = NO_LOSS
    iter_last_event: int = 0


def read_solverstate(path):
    """Read a SolverState; raises InputError where `read_caffemodel` does, and for a file of another kind."""
    values, learned_net, history = {}, "", []
    with open_message(path, "SolverState") as message:
        for number, wire, value in message.fields():
            if number not in WIRE_TYPES:
                continue
            if wire != WIRE_TYPES[number]:
                raise WireError(f"field {number} has wire type {wire}")
            if number == 2:
                learned_net = value.text()
            elif number == 3:
                history.append(value)
            elif number == 5:
                values[number] = float(value.view(np.float32)[-1])
            else:
                values[number] = signed(value)
        if 1 not in values:
            raise InputError(f"{path}: holds no iteration: not a .solverstate file")
        for number, name, least in ((1, "iteration", 0), (4, "current_step", 0), (6, "iter_last_event", -(2**31))):
            if not least <= values.setdefault(number, 0) < 2**31:
                raise InputError(f"{path}: found {name} {values[number]}, expected {least}..{2**31 - 1}")
        history = [read_blob(blob, f"{path}: history blob {k}") for k, blob in enumerate(history)]
    return SolverState(values[1], learned_net, history, values[4], values.get(5, NO_LOSS), values[6])


def write_solverstate(path, state):
    """Write a SolverState; the file is replaced whole or not at all."""
    with atomic_write(path) as file:
        state_into(file, state)


def state_into(file, state):
    """Write a SolverState into an open file."""
    head = caffe_pb2.SolverState(
        iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step,
        minimum_loss=state.minimum_loss, iter_last_event=state.iter_last_event,
    )  # fmt: skip
    file.write(head.SerializeToString())
    for array in state.history:  # messages written one after the other merge when read
        part = caffe_pb2.SolverState()
        fill_blob(part.history.add(), array)
        file.write(part.SerializeToString())
