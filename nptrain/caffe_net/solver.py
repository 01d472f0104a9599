"""The solver: Caffe's SolverParameter text files, read as a phase of a recipe, and written.

Every field of the message is in one of three tables: it is honoured, noted (accepted with a note that it has no effect)
or refused unless it has Caffe's default. An absent field has Caffe's default, not this project's. A test checks that no
field is missing in the tables.
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from google.protobuf import text_format

from nptrain.caffe.caffe_pb2 import MultiPhaseSolverParameter, SolverParameter
from nptrain.caffe.text import decimal, parse, single, text_of
from nptrain.errors import InputError, within
from nptrain.recipes.recipe import Phase, Recipe
from nptrain.recipes.schedule import NEEDS

# {field of SolverParameter: field of Phase}, in the order in which they are written
OF_PHASE = {
    "type": "type", "test_iter": "test_iter", "test_interval": "test_interval",
    "test_initialization": "test_initialization", "base_lr": "base_lr", "lr_policy": "lr_policy", "gamma": "gamma",
    "power": "power", "stepsize": "stepsize", "stepvalue": "stepvalue", "plateau_winsize": "plateau_winsize",
    "lr_iter": "lr_iter", "warmup_iter": "warmup_iter", "warmup_start_lr": "warmup_start_lr", "max_iter": "max_iter",
    "iter_size": "iter_size", "momentum": "momentum", "weight_decay": "weight_decay",
    "regularization_type": "regularization", "clip_gradients": "clip_gradients", "local_lr_auto": "local_lr_auto",
    "local_gw_ratio": "local_gw_ratio", "display": "display", "average_loss": "average_loss", "snapshot": "snapshot",
    "snapshot_prefix": "snapshot_prefix", "snapshot_after_train": "snapshot_after_train",
}  # fmt: skip
HONOURED = {
    "net": "the net file, with the data sources",
    "random_seed": "the seed, where --seed is not given; -1: not fixed",
    "solver_type": "the older way to write type: SGD or NESTEROV",
    **OF_PHASE,
}
NOTED = {
    "solver_mode": "everything is computed on the CPU",
    "device_id": "there is no device to choose; --threads chooses cores",
    "engine": "the kernels are this project's own; --kernels and --winograd choose among them",
    "debug_info": "the log of a run is metrics.jsonl",
    "test_compute_loss": "a test always computes the loss",
}
REFUSED = {
    "net_param": "the net in a file of its own, named by net",
    "train_net": "net, one file with a TRAIN and a TEST data layer",
    "test_net": "net, one file with a TRAIN and a TEST data layer",
    "train_net_param": "the net in a file of its own, named by net",
    "test_net_param": "the net in a file of its own, named by net",
    "train_state": "none: layers are chosen by their phase alone",
    "test_state": "none: layers are chosen by their phase alone",
    "test_offset": "0: test_interval counts from iteration 0",
    "eval_type": "classification, the one kind of test here",
    "ap_version": "its default, which classification does not use",
    "show_per_class_result": "false: a test gives loss, top-1 and top-5",
    "snapshot_diff": "false: snapshots hold weights, not gradients",
    "snapshot_format": "BINARYPROTO",
    "delta": "its default, which SGD and Nesterov do not use",
    "momentum2": "its default, which SGD and Nesterov do not use",
    "rms_decay": "its default, which SGD and Nesterov do not use",
    "disabled_update": "false: training updates weights",
    "fff": "none",
}
REQUIRED = ("net", "base_lr", "lr_policy", "max_iter")

TYPES = ("SGD", "Nesterov")
OF_POLICY = ("gamma", "power", "stepsize", "lr_iter")  # None if absent: Caffe's default of 0 makes no sense
# fields of Phase that the net file sets; and those that Caffe's files do not have (nor `pad`, which writer.py refuses)
OF_NET = ("augmentation", "min_area", "aspect", "max_attempt", "resize", "mirror", "shuffle", "prefetch")
NOWHERE = ("momentum_correction", "lars_norm", "decay_scale_and_shift")


@dataclass(frozen=True)
class Solver:
    """A solver file: its `phases`, of which there is one, named after the file, unless it is a text of `params_pair`;
    `net` as written there; `seed`, None if it is not fixed; and `notes` on fields without effect, one line each.

    The fields of a phase that the net file sets (OF_NET) have their defaults.
    """

    path: Path
    phases: tuple[Phase, ...]
    net: str
    seed: int | None
    notes: tuple[str, ...]


def read_solver(path):
    """The Solver in a text file. Raises InputError for a text that is not a SolverParameter, and for a field that is
    refused, is missing or has a value that makes no sense. The message begins with the file, and with line and column
    where the text cannot be parsed.
    """
    text = text_of(path, "SolverParameter")
    if re.search(r"^\s*params_pair\s*[:{]", text, re.MULTILINE):
        message = parse(text, MultiPhaseSolverParameter(), path)
        with within(path):
            return _several(message.params_pair, Path(path))
    message = parse(text, SolverParameter(), path)
    with within(path):
        return _understood(message, Path(path))


def _several(pairs, path):
    """The Solver of the published fork's `params_pair`: phases one after another, each from the weights of the one
    before. What a pair leaves out is as in the pair before it. All have the net of the first; snapshots have its prefix
    and the number of the phase.
    """
    if not pairs[0].HasField("solver_params"):
        raise InputError("params_pair 0: solver_params: found none, expected a solver")
    phases, notes, message, batch_size, first = [], [], None, None, None
    for number, pair in enumerate(pairs):
        message = pair.solver_params if pair.HasField("solver_params") else message
        batch_size = pair.batch_size if pair.HasField("batch_size") else batch_size
        with within(f"params_pair {number}"):
            for field in ("net", "random_seed") if first else ():
                found, expected = getattr(message, field), getattr(first, field)
                if message.HasField(field) and found != expected:
                    raise InputError(f"{field}: found {found}, expected {expected} or none, as in the first pair")
                if first.HasField(field):
                    setattr(message, field, expected)
            solver = _understood(message, path)
        first = first or message
        prefix = f"{first.snapshot_prefix or path.with_suffix('')}_phase_{number}"
        phase = replace(solver.phases[0], name=str(number), batch_size=batch_size, snapshot_prefix=prefix)
        notes += [note for note in solver.notes if note not in notes]
        if not phase.snapshot_after_train and number < len(pairs) - 1:
            notes.append(f"{path}: params_pair {number}: snapshot_after_train has no effect: the next phase needs it")
            phase = replace(phase, snapshot_after_train=True)
        phases.append(phase)
    return Solver(path, tuple(phases), solver.net, solver.seed, tuple(notes))


def _understood(message, path):
    for name in REQUIRED:
        if not message.HasField(name):
            raise InputError(f"{name}: found none, expected a value")
    notes = []
    for field, value in message.ListFields():
        if field.name in REFUSED and not _is_default(field, value):
            raise InputError(f"{field.name}: found {_shown(field, value)}, expected {REFUSED[field.name]}")
        if field.name in NOTED and not (field.name == "solver_mode" and value == SolverParameter.CPU):
            notes.append(f"{path}: {field.name} has no effect: {NOTED[field.name]}")
    values = {phase_field: _value(message, name) for name, phase_field in OF_PHASE.items()}
    values["type"] = _type(message)
    values["test_iter"] = _one_test(message)
    if values["test_interval"] and not values["test_iter"]:
        notes.append(f"{path}: test_interval has no effect without test_iter, as in Caffe, unless --val-data is given")
    if values["local_lr_auto"] and values["type"] == "Nesterov":
        notes.append(f"{path}: local_lr_auto has no effect with type Nesterov, as in the fork")
    for name in OF_POLICY:
        if not message.HasField(name):
            values.pop(name)
    if "power" in NEEDS.get(message.lr_policy, ()) and "power" not in values:
        raise InputError(f"power: found none, expected a value, as lr_policy is {message.lr_policy!r}")
    if not message.snapshot_prefix:
        values["snapshot_prefix"] = None
    seed = message.random_seed if message.random_seed >= 0 else None
    phase = Phase(path.stem, **values)
    Recipe(path.stem, "", (phase,))  # checks its values
    return Solver(path, (phase,), message.net, seed, tuple(notes))


def _value(message, name):
    """A field's value, Caffe's default where it is absent; lists as tuples, floats in their shortest decimal."""
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if field.is_repeated:
        return tuple(value)
    return decimal(value, name) if field.type == field.TYPE_FLOAT else value


def _type(message):
    """The solver's type, from either of the two fields; Caffe refuses both together."""
    if message.HasField("solver_type"):
        if message.HasField("type"):
            raise InputError("solver_type: found together with type, expected type alone")
        known = {SolverParameter.SGD: "SGD", SolverParameter.NESTEROV: "Nesterov"}
        if message.solver_type not in known:
            found = SolverParameter.SolverType.Name(message.solver_type)
            raise InputError(f"solver_type: found {found}, expected SGD or NESTEROV")
        return known[message.solver_type]
    if message.type not in TYPES:
        raise InputError(f"type: found {message.type!r}, expected one of {', '.join(TYPES)}")
    return message.type


def _one_test(message):
    """test_iter, or None. As in Caffe, it adds a test net, which needs a test_interval."""
    if len(message.test_iter) > 1:
        raise InputError(f"test_iter: found {len(message.test_iter)} values, expected one: there is one test net")
    if message.test_iter and message.test_interval < 1:
        raise InputError(f"test_interval: found {message.test_interval}, expected 1 or more, as test_iter is given")
    return message.test_iter[0] if message.test_iter else None


def _is_default(field, value):
    if field.type == field.TYPE_MESSAGE:
        return not field.is_repeated and not value.ListFields()
    return field.has_default_value and value == field.default_value


def _shown(field, value):
    """A value as text, for a message."""
    if field.type == field.TYPE_MESSAGE:
        return "{...}"
    if field.type == field.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    return ", ".join(map(str, value)) if field.is_repeated else str(value)


def write_solver(phase, net, seed=None):
    """The text of a solver file. `read_solver` reads it as the same phase, except for its name, `starts_from` and the
    fields that the net file sets; protobuf's text parser accepts it as a SolverParameter.

    Raises InputError for a value that Caffe's file cannot hold.
    """
    defaults = {field.name: field.default for field in fields(Phase)}
    for name in NOWHERE:
        if getattr(phase, name) != defaults[name]:
            raise InputError(
                f"{phase.name}.{name}: found {getattr(phase, name)}, which no field of Caffe's files holds"
            )
    lines = [_line("net", net)]
    for name, phase_field in OF_PHASE.items():
        value = getattr(phase, phase_field)
        absent = defaults[phase_field] if name in OF_POLICY else _value(SolverParameter(), name)
        needed = name in REQUIRED or name in NEEDS.get(phase.lr_policy, ())
        if value in (None, ()) or (value == absent and not needed):
            continue
        lines.append(_line(name, value))
    if seed is not None:
        lines.append(_line("random_seed", seed))
    return "".join([*lines, _line("solver_mode", SolverParameter.CPU)])


def _line(name, value):
    """One field as text; for a list, a line for each value."""
    field = SolverParameter.DESCRIPTOR.fields_by_name[name]
    if field.type == field.TYPE_FLOAT:
        value = single(value, name)
    elif field.is_repeated and isinstance(value, int):
        value = [value]
    try:
        return text_format.MessageToString(SolverParameter(**{name: value}))
    except (ValueError, TypeError):
        raise InputError(f"{name}: found {value}, which Caffe's file cannot hold") from None


def recipe_of(solver, net, workers):
    """The Recipe of a Solver and its `net.NetFile` on `workers` workers."""
    from_net = {name: getattr(net.train, name) for name in OF_NET}
    phases = tuple(replace(phase, **from_net) for phase in solver.phases)
    with within(solver.path):
        return net.recipe(solver.path.stem, f"the solver of {solver.path}", phases, workers)


def snapshot_prefix(phase, path, workers):
    """The beginning of the names of snapshots: the phase's snapshot_prefix; if that is a folder, or ends with "/", the
    name of the solver file `path` in it; without a prefix, `path` without its extension. As in newer versions of Caffe;
    that of the published run ends without a prefix, and names snapshots "_iter_N" in a folder.

    In the fork, %# in it is the number of the rank, which is 0, as rank 0 writes them, and %* that of all its ranks:
    `workers`.
    """
    if phase.snapshot_prefix is None:
        return str(Path(path).with_suffix(""))
    prefix = phase.snapshot_prefix.replace("%#", "0").replace("%*", str(workers))
    folder = prefix.endswith("/") or Path(prefix).is_dir()
    return str(Path(prefix) / Path(path).stem) if folder else prefix
