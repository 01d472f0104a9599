"""What the commands that read a .caffemodel share: what is known of its weights."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from bin.common.arguments import expect_not_both
from bin.common.caffe_files import SolverFiles
from bin.common.data_sets import expect_same_classes
from nptrain.caffe.model import read_caffemodel
from nptrain.caffe_net.weights import recipe_fields
from nptrain.errors import InputError
from nptrain.network.inference import Inference
from nptrain.recipes.changes import with_crop
from nptrain.recipes.published import DEFAULT, get_recipe
from nptrain.recipes.recipe import override
from nptrain.run.checkpoint import fill_arena, latest, of_manifest
from nptrain.run.run_folder import RunFolder, classes_of, recipe_of

# fields of a recipe that scores depend on
NETWORK = ("depth", "downsample", "stem_bias", "first_projection", "width")
PIXELS = ("mean_bgr", "scale", "bn_eps")
SCORING = (*NETWORK, "crop_size", *PIXELS, "test_resize")


@dataclass(frozen=True)
class Origin:
    """What is known of the weights in the file or files `name`, from the run beside them, or else from the files.

    fields   {field of SCORING: value}, those that are known
    classes  the number of classes; None if there is no classifier
    names    of the classes, or None
    """

    name: str
    fields: dict
    classes: int | None
    names: list[str] | None

    @classmethod
    def of(cls, paths, run=None):
        """Of the files `paths`, of the run in the folder `run`, if it is not the one around the last of them. Raises
        InputError for files that are not weights, and for a damaged run.json.
        """
        name = ",".join(map(str, paths))
        run = run or run_of(paths[-1])
        fields, classes = recipe_fields(paths)
        recipe = recipe_of(run)
        if recipe:
            fields = {field: getattr(recipe, field) for field in SCORING}
        names = classes_of(run)
        return cls(name, fields, classes, names if names and len(names) == classes else None)


def run_of(weights):
    """The folder of the run whose weights a file is, if it is in one."""
    return Path(weights).parent.parent


def add_arguments(parser):
    """Add the flags that `chosen_recipe` reads."""
    parser.add_argument("--recipe", metavar="NAME", help="recipe whose network and preprocessing are used")
    parser.add_argument("--solver", metavar="FILE", help="solver.prototxt, with its net file, instead of a recipe")
    parser.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], dest="assignments",
                        help="override a field of the recipe: downsample=1x1; may be repeated")  # fmt: skip
    parser.add_argument("--crop-size", metavar="N", type=int, help="side of the network's input images")


def chosen_recipe(args, paths, files=None, runs=None):
    """(recipe, Caffe's files that it comes from or None, note for the user or None).

    The recipe is that of --recipe, --solver or the ModelFile `files`, else that of the run whose weights `paths` are,
    else DEFAULT, with a note. Where --crop-size changes the crop, the resize before it changes in proportion.
    """
    expect_not_both(args, ("solver", "recipe"))
    files, note = SolverFiles.read(args.solver) if args.solver else files, None
    if files:
        base = files.recipe()
    elif args.recipe:
        base = get_recipe(args.recipe)
        if paths:
            base = as_weights(base, Origin.of(paths[:1]), NETWORK)
    else:
        base = recipe_of_all(paths, runs)
    if not base:
        base, note = recipe_of_alone(paths[0])
    size = args.batch_size
    changes = [] if size is None else [f"batch_size={size}", f"test_batch_size={size}"]
    if getattr(args, "precision", None):
        changes.append(f"precision={args.precision}")
    if args.crop_size is not None:
        base = with_crop(base, args.crop_size)
    recipe = override(base, [*changes, *args.assignments])
    if files:
        note = files.test_note(recipe)
    return recipe, files, note


def precision_note(recipe, runs):
    """A line for the user on the precision of an evaluation; None if that and those of the `runs` are float32."""
    trained = {known.precision for known in map(recipe_of, runs) if known}
    others = sorted(trained - {recipe.precision})
    if trained <= {"float32"} and recipe.precision == "float32":
        return None
    return f"evaluated in {recipe.precision}" + (f"; trained in {' and '.join(others)} (--precision)" if others else "")


def as_weights(recipe, origin, fields):
    """The recipe with those `fields` of SCORING that are known of the weights."""
    return replace(recipe, **{field: origin.fields[field] for field in fields if field in origin.fields})


def recipe_of_alone(path):
    """(Recipe, note for the user) of weights that are in no run's folder: what the file does not say is as in DEFAULT,
    the resize in proportion to the crop.
    """
    origin, default = Origin.of([path]), get_recipe(DEFAULT)
    recipe = as_weights(default, origin, (*NETWORK, *PIXELS))
    if "crop_size" not in origin.fields:
        return recipe, (f"{path} is not in a run's folder: used network and preprocessing of {DEFAULT} "
                        "(--recipe, --solver)")  # fmt: skip
    recipe = with_crop(recipe, origin.fields["crop_size"])
    return recipe, (f"{path} is not in a run's folder: network, crop and mean are the file's, and test images are "
                    f"resized to {recipe.test_resize} (--set test_resize=N)")  # fmt: skip


def recipe_of_all(paths, runs=None):
    """The recipe of the run whose weights `paths` are: of the first file that is in a run's folder; None if none is.
    `runs` are the folders of their runs, where they are known: snapshots with a prefix may be anywhere. Raises
    InputError if the recipe of another one differs in a field of SCORING.
    """
    folders = runs or map(run_of, paths)
    known = [(path, found) for path, folder in zip(paths, folders, strict=True) if (found := recipe_of(folder))]
    if not known:
        return None
    (first_path, first), *others = known
    for path, other in others:
        for field in SCORING:
            found, expected = getattr(other, field), getattr(first, field)
            if found != expected:
                raise InputError(f"{path}: its run has {field} {found}, expected {expected}, as in {first_path}; or "
                                 "give --recipe")  # fmt: skip
    return first


def names_of_all(paths, classes, runs=None):
    """The names of the classes of the runs whose weights `paths` are, of the first that has them; None if none has.
    Raises InputError if those of another one differ. Names of another number than `classes`, the scores of the weights,
    count as none: the run had another classifier. `runs` as in `recipe_of_all`.
    """
    found = zip(paths, map(classes_of, runs or map(run_of, paths)), strict=True)
    known = {path: names for path, names in found if names and len(names) == classes}
    for path, names in known.items():
        first = next(iter(known))
        expect_same_classes(path, names, known[first], first, "an ensemble is of networks for the same classes")
    return next(iter(known.values()), None)


def skipped_layers(path, names):
    """A line for each layer of a .caffemodel that the network does not have."""
    return [f"{path}: skipped layer {name}, which this network does not have" for name in names]


def read_weights(path):
    """({layer: blobs}, number of classes) of the .caffemodel of a ResNet. Raises InputError for another file."""
    blobs = read_caffemodel(path)
    if "fc1000" not in blobs:
        raise InputError(f"{path}: no layer fc1000, expected the weights of a ResNet")
    return blobs, blobs["fc1000"][0].shape[-2]


def read_all(paths):
    """({path: blobs}, number of classes). Raises InputError if the files have different numbers of classes."""
    files, classes = {}, None
    for path in paths:
        files[path], count = read_weights(path)
        if classes not in (None, count):
            raise InputError(f"{path}: found {count} classes, expected {classes}, as in {paths[0]}")
        classes = count
    return files, classes


def load_members(network, blobs_of):
    """([an Inference of the weights of each {path: blobs}], lines on layers that are skipped)."""
    members, skipped = [], []
    for path, blobs in blobs_of.items():
        skipped += skipped_layers(path, fill_arena(network.arena, blobs, path))
        members.append(Inference(network))
    return members, skipped


def weights_of(model, tell):
    """The .caffemodel that is meant by `model`: itself, or of the folder of a run, its best checkpoint, if the run has
    chosen one, else its newest complete one; tell(line) says which, and what was passed over.
    """
    if not os.path.isdir(model):
        return model
    folder, recipe = RunFolder(model), recipe_of(model)
    if recipe is None:
        raise InputError(f"{model}: a folder without run.json, expected that of a run, or a .caffemodel")
    chosen = best(folder, tell)
    found = chosen or latest(recipe, folder.checkpoints, tell)
    if found is None:
        raise InputError(f"{model}: found no complete checkpoint of this run")
    tell(f"{model}: the {'best' if chosen else 'newest'} weights are {found.model}")
    return str(found.model)


def runs_of(models):
    """The folders of the runs of models: of a folder, itself; snapshots with a prefix may be anywhere."""
    return [model if os.path.isdir(model) else run_of(model) for model in models]


def best(folder, tell):
    """The Checkpoint that the best.json of a RunFolder names. None if there is none, or if no checkpoint was saved at
    that test, which tell(line) says.
    """
    path = folder.path / "best.json"
    if not path.is_file():
        return None
    try:
        entry = json.loads(path.read_bytes())
        manifest = folder.checkpoints / f"phase{entry['phase']}_iter_{entry['iteration']}.json"
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: found no phase and iteration of a checkpoint") from None
    if not manifest.is_file():
        tell(f"{path}: no checkpoint was kept of the best test: the newest is used")
        return None
    return of_manifest(manifest)
