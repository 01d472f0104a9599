"""What the commands that read a .caffemodel share: whose network its weights are."""

from dataclasses import replace
from pathlib import Path

from nptrain.caffe.model import read_caffemodel
from nptrain.errors import InputError
from nptrain.recipe import override
from nptrain.recipes import get_recipe
from nptrain.run_folder import recipe_of

SCORING = ("depth", "downsample", "crop_size", "mean_bgr", "scale", "bn_eps", "test_resize")  # fields of a recipe


def add_arguments(parser):
    """The flags that `chosen_recipe` reads."""
    parser.add_argument("--recipe", metavar="NAME", help="whose network and preprocessing are used")
    parser.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], dest="assignments",
                        help="override a field of it: downsample=1x1, say; may be repeated")  # fmt: skip
    parser.add_argument("--crop-size", metavar="N", type=int, help="side of the images the network sees")


def chosen_recipe(args, paths):
    """The recipe named, or of the run that the weights lie in, at the crop asked for: the resize before the crop keeps
    its proportion.
    """
    found = get_recipe(args.recipe) if args.recipe else recipe_of_all(paths)
    recipe = override(found or get_recipe("resnet50-448nodes"), args.assignments)
    if args.batch_size is not None:
        recipe = replace(recipe, batch_size=args.batch_size)
    if args.crop_size is not None:
        resize = recipe.test_resize and round(recipe.test_resize * args.crop_size / recipe.crop_size)
        recipe = replace(recipe, crop_size=args.crop_size, test_resize=resize)
    return recipe


def recipe_of_all(paths):
    """The recipe of the run that the first of the weights lie in, or None. Raises InputError where those of the others
    would score images in another way.
    """
    first, *others = (recipe_of(Path(path).parent.parent) for path in paths) if paths else (None,)
    for path, other in zip(paths[1:], others, strict=True):
        for field in SCORING if first and other else ():
            found, expected = getattr(other, field), getattr(first, field)
            if found != expected:
                raise InputError(f"{path}: its run has {field} {found}, expected {expected}, as {paths[0]}; or give "
                                 "--recipe")  # fmt: skip
    return first


def read_weights(path):
    """({layer: blobs}, number of classes) of the .caffemodel of a ResNet."""
    blobs = read_caffemodel(path)
    if "fc1000" not in blobs:
        raise InputError(f"{path}: no layer fc1000, expected the weights of a ResNet")
    return blobs, blobs["fc1000"][0].shape[-2]
