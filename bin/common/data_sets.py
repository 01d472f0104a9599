"""The data of a run: which data sets, what their classes are called, and whether they fit together."""

from dataclasses import dataclass
from pathlib import Path

from mpi.agree import raise_together
from nptrain.data.classes import first_difference, read_classes
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError, printable

HELD_OUT = ("val", "valid", "validation", "test")  # names that make_lmdb gives to data sets that are not trained on
MOST = 100_000  # labels that are read of a data set before a run: a second


def add_data_arguments(data):
    """Add the flags that say what is trained and tested on."""
    data.add_argument("--data", metavar="DIR", help="folder of the data sets train and val, as bin/make_lmdb makes it")
    data.add_argument("--train-data", metavar="DIR", help="LMDB of training images")
    data.add_argument("--val-data", metavar="DIR", help="LMDB of held-out images (without it: no tests)")


def name_data_sets(args):
    """Set args.train_data and args.val_data, where they are not given, from args.data: its data set train, and the
    first of HELD_OUT; or if it is a data set itself, that one to train on. Raises InputError if it is neither.
    """
    if args.data is None:
        return
    sets = {data.parent.name.lower(): str(data.parent) for data in sorted(Path(args.data).glob("*/data.mdb"))}
    if Path(args.data).is_file() or (Path(args.data) / "data.mdb").exists():
        sets = {"train": args.data}
    if "train" not in sets:
        raise InputError(f"--data: found no data set {Path(args.data) / 'train'}, expected it, and for tests "
                         f"{Path(args.data) / 'val'}: bin/make_lmdb makes them")  # fmt: skip
    args.train_data = args.train_data or sets["train"]
    args.val_data = args.val_data or next((sets[name] for name in HELD_OUT if name in sets), None)


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before its images are decoded.

    names          of its classes, in the order of the labels; None if it has none
    largest_label  of all records, or, without `all_read`, of MOST of them; largest_at says in which record
    """

    path: str
    records: int
    names: list[str] | None
    largest_label: int
    largest_at: str
    all_read: bool

    @classmethod
    def read(cls, path, most=MOST):
        """Raises InputError for a data set that cannot be read, and for a label without a name."""
        data, names = LmdbDataset(path), read_classes(path)
        largest, index = data.largest_label(most)
        found = cls(str(path), len(data), names, largest, data.where(index), most is None or len(data) <= most)
        if names:
            found.expect_labels_below(len(names), "as many as classes.txt has names")
        return found

    def expect_labels_below(self, classes, why):
        if self.largest_label >= classes:
            raise InputError(f"{self.largest_at}: found label {self.largest_label}, expected 0..{classes - 1}, {why}")


@dataclass(frozen=True)
class RunData:
    """The data sets of a run: to train on, and to test on, or None."""

    train: DataSet
    val: DataSet | None

    @classmethod
    def read(cls, train, val=None, most=MOST):
        """Raises what DataSet.read does, and InputError for data sets whose classes differ."""
        found = cls(DataSet.read(train, most), DataSet.read(val, most) if val else None)
        if val:
            expect_same_classes(val, found.val.names, found.train.names, train)
        return found

    @property
    def names(self):
        return self.train.names or (self.val and self.val.names)

    def number_of_classes(self, told, own):
        """(number of classes, line that says where it is from): that which the user has `told`, or that of the names,
        or of the labels, if they were all read, or the recipe's `own`. Raises InputError if the data contradict it.
        """
        train = self.train
        if told is not None:
            self.expect_classes(told, "--classes")
            return told, f"{told} classes, as --classes says"
        if self.names or train.all_read:
            count = len(self.names) if self.names else train.largest_label + 1
            if self.val:
                self.val.expect_labels_below(count, f"as {train.path} has {count} classes")
            reason = f"{self._named()} says" if self.names else f"the largest label of {train.path} says"
            return count, f"{count} classes, as {reason}"
        self.expect_classes(own, "the recipe")
        return own, f"{own} classes, as in the recipe; the largest label is {train.largest_label}"

    def expect_classes(self, count, source):
        """Raise InputError unless the data have so many classes, as `source` says: that many names, or smaller labels
        if they have no names.
        """
        if self.names and len(self.names) != count:
            raise InputError(f"{source}: found {count} classes, expected {len(self.names)}, as {self._named()} says")
        for data in filter(None, (self.train, self.val)):
            data.expect_labels_below(count, f"as {source} says {count} classes")

    def _named(self):
        return Path((self.train if self.train.names else self.val).path) / "classes.txt"

    def unknown(self, classes):
        """Lines on what cannot be checked."""
        sets = [data for data in (self.train, self.val) if data]
        nameless = [data.path for data in sets if not data.names]
        if nameless:
            same = f"; whether class N is the same in {' and '.join(data.path for data in sets)} is not checked"
            yield f"no classes.txt in {' and '.join(nameless)}: labels are 0..{classes - 1}{same * (len(sets) > 1)}"
        for data in sets:
            if not data.all_read:
                yield f"{data.path}: the labels of about {MOST} records were checked, the others are as they are read"


NUMBER_ALIKE = "bin/make_lmdb --classes-of numbers one data set like another"


def expect_same_classes(path, names, expected, source, advice=NUMBER_ALIKE):
    """Raise InputError if the class `names` of the data set `path` differ from those `expected`, of `source`; where one
    of the two is None, nothing can be said.
    """
    difference = names and expected and first_difference(names, expected)
    if not difference:
        return
    label, found, wanted = difference
    found, wanted = ("none" if name is None else repr(printable(name, 100)) for name in (found, wanted))
    raise InputError(f"{path}: class {label} is {found}, expected {wanted}, as in {source}: {advice}")


def classes_line(names, count):
    """Names of classes as one line, if there are any."""
    if not names:
        return f"{count} classes without names"
    shown = [printable(name, 40) for name in (names if len(names) <= 12 else [*names[:5], "...", names[-1]])]
    return f"{count} classes: {', '.join(shown)}"


def read_once(world, read):
    """read() on rank 0, its result or its InputError on all ranks: what is large is read once."""
    found = error = None
    if world.rank == 0:
        try:
            found = read()
        except InputError as caught:
            error = type(caught), str(caught)
    found, error = world.bcast((found, error))
    with raise_together(world, InputError):
        if error:
            kind, line = error
            raise kind(line)
    return found
