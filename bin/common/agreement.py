"""Checks, before a run begins, that all ranks have the same sources, packages, arguments and data."""

import hashlib
from contextlib import suppress
from pathlib import Path

from bin.common.arguments import flag_of
from mpi.agree import expect_same, raise_together
from nptrain.errors import InputError
from nptrain.run.versions import OTHER_BITS, package_versions

PROJECT = Path(__file__).resolve().parents[2]
OWN = {"threads", "comm_threads", "decode_threads", "no_pin"}  # arguments that may differ from rank to rank
# paths may differ from host to host, their contents must not
PATHS = {"train_data", "val_data", "data", "weights", "solver", "model", "snapshot", "config", "snapshot_folder"}
SAMPLES = 1000  # keys of a data set that are compared


def agreed_arguments(parser, argv, world):
    """Parse `argv` on all ranks. Raises AgreedError if it is wrong on any rank, or if a rank differs from rank 0 in its
    arguments, the project's sources or the versions of packages; SystemExit for --help.
    """
    args = None
    with raise_together(world, InputError), suppress(SystemExit):  # --help
        args = parser.parse_args(argv) if world.rank == 0 else parser.parse_silently(argv)
    facts = _sources() | {f"the version of {name}": number for name, number in package_versions().items()}
    facts |= {"the version of MPI": world.library, "--help": _text(args is None)}
    for name, value in vars(args).items() if args else ():
        if name not in OWN:
            flag = "--set" if name == "assignments" else flag_of(name)
            facts[flag] = _text(value is not None if name in PATHS else value)
    expect_same(world, facts, InputError)
    if args is None:
        raise SystemExit(0)
    return args


def agree_on_cpus(world, cpu, reproducible):
    """Lines for the log, of which there is one if ranks' CPUs give other bits: `cpu`, as `prepare.instructions` returns
    it, differs. Raises AgreedError for that in a `reproducible` run. All ranks call it.
    """
    facts = {OTHER_BITS[name]: _text(text) for name, text in cpu.items()}
    if reproducible:
        expect_same(world, facts, InputError)
    found = world.allgather((world.host, facts))
    kinds = {", ".join(texts.values()): host for host, texts in found}
    named = "; ".join(f"{kind} on {host}" for kind, host in kinds.items())
    return (
        [f"hosts with different CPUs: {named}: their bits differ from those of equal hosts"] if len(kinds) > 1 else []
    )


def agree_on_files(world, **files):
    """Raise AgreedError if a file or a data set differs from rank 0's. All ranks call it.

    files  {name of the flag: bytes, LmdbDataset or None}

    Of a data set it compares `data_facts`.
    """
    facts = {}
    for name, content in files.items():
        flag = flag_of(name)
        if isinstance(content, bytes):
            facts[f"the content of {flag}"] = _digest(content)
        elif content is not None:
            facts |= {f"the {what} in {flag}": value for what, value in data_facts(content).items()}
    expect_same(world, facts, InputError)


def data_facts(dataset):
    """{what: value} of a data set, with values for JSON. To be fast, these are samples: the number of records, SAMPLES
    keys, the first and the last image.
    """
    last, facts = len(dataset) - 1, {"number of records": len(dataset)}
    for place, index in (("first", 0), ("last", last)):
        facts[f"{place} key"] = dataset.key(index).decode(errors="backslashreplace")
        facts[f"{place} image"] = _image(dataset, index)
    keys = b"\n".join(dataset.key(index) for index in range(0, last, 1 + last // SAMPLES))
    return {**facts, "list of keys": _digest(keys), "list of sizes": _digest(dataset.sizes())}


def _text(value):
    """An argument's value as text."""
    if value is None or value is False or value == []:
        return "not given"
    return "given" if value is True else " ".join(value) if isinstance(value, list) else str(value)


def _sources():
    """{path: digest} of the project's sources."""
    paths = [path for folder in ("bin", "kernels", "mpi", "nptrain") for path in (PROJECT / folder).rglob("*")]
    return {str(path.relative_to(PROJECT)): _digest(path.read_bytes()) for path in sorted(paths)
            if path.is_file() and path.suffix in ("", ".py")}  # fmt: skip


def _image(dataset, index):
    try:
        image, label = dataset[index]
    except InputError:
        return "damaged"  # no error here: the run replaces the record, or reports it
    return f"{image.width}x{image.height} of class {label}, {_digest(image.tobytes())}"


def _digest(data):
    return hashlib.sha256(data).hexdigest()[:12]
