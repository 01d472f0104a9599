"""A recipe: every value of a training run. A Recipe has Phases, and values that they share."""

from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from nptrain.data.augment import Transform
from nptrain.errors import InputError
from nptrain.network.layers import Architecture
from nptrain.recipes.check import check, expect

IMAGENET = (1_281_167, 50_000)  # records to train on and held out
RENAMED = {"blobs": "blob_overrides"}  # fields of a Recipe that have another name in older run.json files


@dataclass(frozen=True)
class Phase:
    """One solver's run, with the fields of Caffe's SolverParameter and of its net's training data layer.

    type             SGD or Nesterov
    plateau_winsize  for each drop of the policy plateau, the iterations without a lower smoothed loss before it
    average_loss     losses whose mean is the smoothed loss
    test_iter        test batches of each worker, in key order from the first record on, none twice (None: all records)
    snapshot_prefix  beginning of the names of its snapshots (None: they are in the run's folder)
    lars_norm        gradient whose norm local_lr_auto (LARS) takes: "fused", as in the original's default build, the
                     sum over iter_size passes, without weight decay; "unfused", their mean, with weight decay
    batch_size       images for each worker in a step (None: the recipe's)
    starts_from      iteration of the phase before whose weights (not momentum) it starts from (None: the last)
    """

    name: str
    base_lr: float
    max_iter: int
    weight_decay: float
    type: str = "SGD"
    lr_policy: str = "poly"
    power: float = 1.0
    gamma: float | None = None
    stepsize: int | None = None
    stepvalue: tuple[int, ...] = ()
    plateau_winsize: tuple[int, ...] = ()
    lr_iter: int | None = None
    warmup_iter: int = 0
    warmup_start_lr: float = 0.0
    momentum: float = 0.9
    momentum_correction: bool = False
    regularization: str = "L2"
    decay_scale_and_shift: bool = False  # true in the published engine, which ignores the net file's decay_mult of 0
    clip_gradients: float = -1.0
    iter_size: int = 1
    local_lr_auto: bool = False
    local_gw_ratio: float = 0.001
    lars_norm: str = "fused"
    snapshot: int = 0
    snapshot_prefix: str | None = None
    snapshot_after_train: bool = True
    display: int = 40  # 0: never
    average_loss: int = 1
    test_iter: int | None = None
    test_interval: int = 0
    test_initialization: bool = False
    augmentation: str = "random_aspect_ratio"
    min_area: float = 0.08
    aspect: float = 0.75
    max_attempt: int = 10  # to find a part of random area and aspect
    resize: int | None = None  # shorter side before a random crop
    pad: int = 0
    mirror: bool = True
    shuffle: bool = True
    prefetch: int = 2
    batch_size: int | None = None
    starts_from: int | None = None

    def train_transform(self, recipe):
        """The Transform of training images."""
        return Transform(self.augmentation, recipe.crop_size, resize=self.resize, mirror=self.mirror,
                         min_area=self.min_area, aspect=self.aspect, max_attempt=self.max_attempt,
                         pad=self.pad)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The network, the data and the phases. `batch_size` images for each of `workers` make one step.

    depth, downsample, stem_bias, first_projection, width  the `Architecture` of the network
    blob_overrides  differences of a net file from the layer table: (layer, index of the blob, field, value)
    precision       float32, or bf16: activations and products in bf16 (`kernels.naive_bf16` says where it rounds)
    records         (training, held-out) records of the recipe's data set, for predictions only
    """

    name: str
    description: str
    phases: tuple[Phase, ...]
    classes: int = 1000
    crop_size: int = 224
    workers: int = 896
    batch_size: int = 16
    depth: int = 50
    mean_bgr: tuple[float, ...] = (104.0, 117.0, 123.0)
    scale: float = 0.0078125
    bn_eps: float = 1e-5
    moving_average_fraction: float = 0.95
    test_resize: int | None = 256
    downsample: str = "3x3"
    stem_bias: bool = True
    first_projection: bool = False
    width: int = 64
    blob_overrides: tuple = ()
    precision: str = "float32"
    records: tuple[int, int] = IMAGENET
    test_batch_size: int | None = None  # None: batch_size

    def __post_init__(self):
        check(self)

    @property
    def architecture(self):
        """The Architecture of the network."""
        return Architecture(self.depth, self.downsample, self.stem_bias, self.first_projection, self.width)

    def batch_of(self, phase):
        """Images for each worker in a step of a phase."""
        return phase.batch_size or self.batch_size

    def images_of(self, phase):
        """Images of all workers in an iteration of a phase."""
        return self.workers * self.batch_of(phase) * phase.iter_size

    def test_transform(self):
        """The Transform of test images: shorter side to test_resize, centre crop."""
        return Transform("test", self.crop_size, resize=self.test_resize, mirror=False)

    def test_records(self, phase):
        """The number of records, from the first on, of a test in a phase; None: all."""
        return phase.test_iter and phase.test_iter * self.workers * (self.test_batch_size or self.batch_size)

    def phase(self, name):
        """The phase of that name. Raises InputError if there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise InputError(f"phase: found {name!r}, expected one of {', '.join(p.name for p in self.phases)}")


def to_dict(recipe):
    """The whole recipe, as a dictionary for JSON."""
    return asdict(recipe)


def from_dict(values):
    """The recipe that `to_dict` gave. Raises InputError on an unknown or missing field."""
    phases = tuple(map(_phase, values.get("phases", ())))
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    return _build(Recipe, {**values, "phases": phases})


def _phase(values):
    values = {**values}
    if values.get("local_lr_auto"):
        values.setdefault("lars_norm", "unfused")  # of a run from before there was a choice
    return _build(Phase, values)


def _build(kind, values):
    names = {field.name for field in fields(kind)}
    for name in values:
        expect(name in names, name, "an unknown field", f"one of {', '.join(sorted(names))}")
    try:
        return kind(**{name: _frozen(value) for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {error}") from None


def _frozen(value):
    """Lists as tuples, within lists, too."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def override(recipe, assignments):
    """The recipe with FIELD=VALUE or PHASE.FIELD=VALUE replaced; a phase's field without PHASE is set in every phase.

    Raises InputError on an unknown field or phase, or a value of another type.
    """
    changes, of_phases = {}, {phase.name: {} for phase in recipe.phases}
    known = [field.name for field in fields(Phase) if field.name != "name"]
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        expect(equals, "--set", repr(assignment), "FIELD=VALUE or PHASE.FIELD=VALUE")
        phase_name, dot, field = target.rpartition(".")
        if not dot and field in {f.name for f in fields(Recipe)} - {"name", "phases", "blob_overrides"}:
            changes[field] = _parsed(Recipe, field, text)
            continue
        expect(field in known, "--set", f"the unknown field {field!r}",
                f"a field of the recipe or of a phase: {', '.join(known)}")  # fmt: skip
        for name in [recipe.phase(phase_name).name] if dot else of_phases:
            of_phases[name][field] = _parsed(Phase, field, text)
    own = next((p for p in recipe.phases if p.batch_size is not None), None)
    expect("batch_size" not in changes or own is None, "batch_size", changes.get("batch_size"),
           f"{own and own.name}.batch_size: the phases have batch sizes of their own")  # fmt: skip
    # all at once: a value may make sense only together with another
    return replace(recipe, phases=tuple(replace(p, **of_phases[p.name]) for p in recipe.phases), **changes)


def _parsed(kind, field, text):
    """`text` as the type of a dataclass's field."""
    hint = get_type_hints(kind)[field]
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    target = next(k for k in kinds if k is not type(None))
    try:
        if target is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if get_origin(target) is tuple:
            return tuple(get_args(target)[0](part) for part in text.split(",") if part)
        return target(text)
    except (ValueError, KeyError):
        name = getattr(target, "__name__", str(target))
        raise InputError(f"--set {field}: found {text!r}, expected a value of type {name}") from None
