"""Any bytes at all, read as each kind of file: nothing may crash, hang or take much memory, only InputError may come.

    python tests/fuzz.py SECONDS [TARGET...]           mutates valid files at random
    python tests/fuzz.py --atheris TARGET [FLAG...]    guided by coverage, with libFuzzer's flags

The second needs `atheris` in an environment with this project's packages (`pip install atheris`), for example

    python tests/fuzz.py --atheris caffemodel -max_total_time=3600 -rss_limit_mb=1024 -timeout=10

It ends at a finding and leaves the input in a file crash-...; `python tests/fuzz.py --once TARGET FILE` runs that one
again. A finding that was fixed becomes a case in tests/test_fuzz.py, which runs a little of this in every test run.
"""

import json
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if "--atheris" in sys.argv:
    import atheris

    instrumented = atheris.instrument_imports(include=["nptrain", "google.protobuf.text_format"])
else:
    instrumented = nullcontext()

import io

import numpy as np
from PIL import Image

with instrumented:
    from weights import write_layers

    from nptrain.caffe.model import layers_of
    from nptrain.caffe.state import SolverState, read_solverstate, write_solverstate
    from nptrain.data.datum import decode, encoded_datum, parse_datum, raw_datum
    from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
    from nptrain.data.sources import Tar
    from nptrain.errors import InputError
    from nptrain.export.safetensors_file import read_safetensors, write_safetensors
    from nptrain.inspect.summary import summary
    from nptrain.inspect.summary_text import summary_text

TEXTS = (
    'net: "a.prototxt"\nbase_lr: 4.8\nmax_iter: 7\nstepvalue: [1, 2]\nlr_policy: "poly"\nsolver_mode: CPU\n',
    'name: "n"\nlayer { name: "d" type: "Data" include { phase: TRAIN } data_param { source: "x" backend: LMDB } }\n'
    'layer { name: "c" type: "Convolution" bottom: "d" param { lr_mult: 2 } lrn_param { local_size: 5 } }\n',
    'layers { name: "d" type: 4 blobs { num: 1 data: 1.5 } }\n',
)
MAX_MEMORY = 1 << 30
MAX_SECONDS = 10


def read_datum(path):
    decode(parse_datum(path.read_bytes(), path), path)


def read_lmdb(path):
    """The file as the data.mdb of an LMDB; what is wrong with single records is as right as no error."""
    folder = path.parent / "lmdb"
    folder.mkdir(exist_ok=True)
    os.replace(path, folder / "data.mdb")
    dataset = LmdbDataset(folder)
    for index in range(min(len(dataset), 100)):
        with suppress(InputError):
            dataset[index]


def read_model(path):
    for _ in layers_of(path):
        pass


def read_tar(path):
    archive = Tar(path, path.parent)
    for name in archive.names():
        if not name.endswith("/"):
            archive.read(name)
    archive.close()


def inspect(path):
    found = summary(path)
    json.dumps(found, allow_nan=False)
    lines = summary_text(found).splitlines()
    assert all(line.isprintable() for line in lines), lines


TARGETS = {"caffemodel": read_model, "solverstate": read_solverstate, "datum": read_datum, "lmdb": read_lmdb,
           "prototxt": inspect, "inspect": inspect, "tar": read_tar, "safetensors": read_safetensors}  # fmt: skip


def check(target, data, folder):
    """Read `data` as the kind `target`, from a file in `folder`: fine, or one line of error, else it raises."""
    path = Path(folder) / "file"
    path.write_bytes(data)
    try:
        TARGETS[target](path)
    except InputError as error:
        line = str(error)
        assert line.isprintable(), repr(line)
        assert str(folder) in line, line
        assert len(line) <= 1000, len(line)


def seeds(target, folder):
    """Some small valid files of the kind."""
    path = Path(folder) / "seed"
    x = np.linspace(-1, 1, 12, dtype=np.float32)
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    if target == "caffemodel":
        write_layers(path, "net", [("a", "Convolution", [x.reshape(3, 1, 2, 2), x[:3]]), ("b", "ReLU", []),
                                   ("c", "Scale", [x.astype(np.float64)])])  # fmt: skip
        legacy = b"\x08\x01\x10\x01\x18\x01\x20\x02\x2a\x08" + bytes(8)
        layer = b"\x22\x02ip\x28\x0e\x32" + bytes([len(legacy)]) + legacy
        return [path.read_bytes(), b"\x0a\x01n\x12" + bytes([len(layer)]) + layer]
    if target == "solverstate":
        write_solverstate(path, SolverState(7, "net.caffemodel", [x.reshape(3, 4), x[:1]], 2))
        return [path.read_bytes()]
    if target == "datum":
        files = []
        for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
            image.save(buffer := io.BytesIO(), kind)
            files.append(encoded_datum(buffer.getvalue(), 3))
        return [*files, raw_datum(image, 4)]
    if target == "lmdb":
        made = []
        for records in (1, 3, 90):  # a record in its leaf, and pages of its own; a leaf, and a branch
            folder = Path(folder) / f"seed{records}"
            big = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
            write_lmdb(folder, ((f"{k}.png" * 9, raw_datum(big if k == 1 else image, k)) for k in range(records)))
            made.append((folder / "data.mdb").read_bytes())
        return made
    if target == "tar":
        return [tar(path, mode, form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT) for mode in ("w", "w:gz")]
    if target == "safetensors":
        write_safetensors(path, {"a": x.reshape(3, 4), "b": x[:1]}, {"depth": "18"})
        return [path.read_bytes()]
    if target == "prototxt":
        return [text.encode() for text in TEXTS]
    if target == "inspect":
        path.write_text(json.dumps({"phase": "1", "iteration": 3, "files": {"a": {"bytes": 3, "sha256": "5"}}}))
        mean = b"\x08\x01\x10\x01\x18\x01\x20\x02\x2a\x08" + bytes(8)
        run = {"recipe": {"name": "r", "scale": 0.5}, "arguments": {}, "versions": {"numpy": "2"}, "hosts": [{}]}
        return [
            path.read_bytes(),
            json.dumps(run).encode(),
            mean,
            *seeds("caffemodel", folder),
            *seeds("solverstate", folder),
        ]
    raise ValueError(target)


def tar(path, mode, form):
    """An archive of files with a short and a long name, and of links to them."""
    with tarfile.open(path, mode, format=form) as archive:
        for name in ("a/b.png", f"{'x' * 150}/ä.png"):
            file = tarfile.TarInfo(name)
            file.size = 600
            archive.addfile(file, io.BytesIO(bytes(600)))
            link = tarfile.TarInfo(f"{name}.link")
            link.type, link.linkname = tarfile.LNKTYPE, name
            archive.addfile(link)
    return path.read_bytes()


def mutated(rng, data):
    """`data` after one to four random changes: bytes changed, removed, repeated, made extreme, the end cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.5:
            at = min(at // 4096 * 4096 + rng.randrange(160), len(data))  # where pages of an LMDB tell of themselves
        size = min(rng.choice((1, 1, 2, 4, 8, 64)), len(data) - at)
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + size] = rng.randbytes(size)
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size] * rng.choice((1, 2, 100))
        elif kind == 3:
            data[at : at + size] = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * size
        elif kind == 4 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        else:
            del data[at:]
    return bytes(data)


def mutate(seconds, targets, seed=0):
    """Check mutations of the seeds of `targets` in turn, for so long. Returns how many there were."""
    rng, end, count = random.Random(seed), time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        start = {target: seeds(target, folder) for target in targets}
        while time.monotonic() < end:
            for target in targets:
                data = mutated(rng, rng.choice(start[target]))
                began = time.monotonic()
                try:
                    check(target, data, folder)
                except BaseException:
                    Path(f"crash-{target}").write_bytes(data)
                    raise
                assert time.monotonic() - began < MAX_SECONDS, (target, data)
                count += 1
    return count


def memory_folder():
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def guided(target, flags):
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for i, seed in enumerate(seeds(target, folder)):
            (corpus / str(i)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda data: check(target, data, folder))
        atheris.Fuzz()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--atheris":
        guided(sys.argv[2], sys.argv[3:])
    elif sys.argv[1] == "--once":
        with tempfile.TemporaryDirectory() as folder:
            check(sys.argv[2], Path(sys.argv[3]).read_bytes(), folder)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
        print(mutate(float(sys.argv[1]), sys.argv[2:] or list(TARGETS)), "inputs, no finding")


if __name__ == "__main__":
    main()
