"""What the commands that read a .caffemodel share: finding the recipe of its weights."""

from pathlib import Path

from bin.common.arguments import expect_not_both
from bin.common.caffe_files import SolverFiles
from nptrain.caffe.model import read_caffemodel
from nptrain.errors import InputError
from nptrain.recipes.published import DEFAULT, get_recipe
from nptrain.recipes.recipe import override
from nptrain.run.run_folder import recipe_of

# fields of a recipe that scores depend on
SCORING = (
    "depth",
    "downsample",
    "stem_bias",
    "first_projection",
    "crop_size",
    "mean_bgr",
    "scale",
    "bn_eps",
    "test_resize",
)


def add_arguments(parser):
    """Add the flags that `chosen_recipe` reads."""
    parser.add_argument("--recipe", metavar="NAME", help="recipe whose network and preprocessing are used")
    parser.add_argument("--solver", metavar="FILE", help="solver.prototxt, with its net file, instead of a recipe")
    parser.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], dest="assignments",
                        help="override a field of the recipe: downsample=1x1; may be repeated")  # fmt: skip
    parser.add_argument("--crop-size", metavar="N", type=int, help="side of the network's input images")


def chosen_recipe(args, paths, files=None):
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
    else:
        base = recipe_of_all(paths)
    if not base:
        base = get_recipe(DEFAULT)
        note = f"{paths[0]} is not in a run's folder: used network and preprocessing of {DEFAULT} (--recipe, --solver)"
    size = args.batch_size
    changes = [] if size is None else [f"batch_size={size}", f"test_batch_size={size}"]
    if args.crop_size is not None:
        resize = base.test_resize and round(base.test_resize * args.crop_size / base.crop_size)
        changes += [f"crop_size={args.crop_size}", f"test_resize={resize}"]
    recipe = override(base, [*changes, *args.assignments])
    if files:
        note = files.test_note(recipe)
    return recipe, files, note


def recipe_of_all(paths):
    """The recipe of the run whose weights `paths` are: of the first file that is in a run's folder; None if none is.
    Raises InputError if the recipe of another one differs in a field of SCORING.
    """
    known = [(path, found) for path in paths if (found := recipe_of(Path(path).parent.parent))]
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


def skipped_layers(path, names):
    """A line for each layer of a .caffemodel that the network does not have."""
    return [f"{path}: skipped layer {name}, which this network does not have" for name in names]


def read_weights(path):
    """({layer: blobs}, number of classes) of the .caffemodel of a ResNet. Raises InputError for another file."""
    blobs = read_caffemodel(path)
    if "fc1000" not in blobs:
        raise InputError(f"{path}: no layer fc1000, expected the weights of a ResNet")
    return blobs, blobs["fc1000"][0].shape[-2]
