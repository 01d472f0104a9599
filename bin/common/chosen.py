"""The recipe of a run: by its name, from a file, or for one's own images, with the changes that the flags make."""

from dataclasses import replace

from bin.common.arguments import expect_at_least, expect_not_both, expect_positive, flag_of
from bin.common.config import Config
from bin.common.weights import NETWORK, PIXELS
from nptrain.errors import InputError
from nptrain.recipes import photos
from nptrain.recipes.changes import frozen, with_crop, with_head_rate, with_rate
from nptrain.recipes.published import DEFAULT, RECIPES, get_recipe
from nptrain.recipes.recipe import override


def add_recipe_arguments(p):
    """Add the flags that choose and change a recipe."""
    p.add_argument("--recipe", metavar="NAME", help="photos, for your own images, or another name of --list-recipes")
    p.add_argument("--list-recipes", action="store_true", help="print the recipes and exit")
    p.add_argument("--config", metavar="FILE",
                   help="recipe from the run.json of a run, or fields of a recipe from a .toml file")  # fmt: skip
    p.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], dest="assignments",
                   help="override a field of the recipe, or of one phase: 1.base_lr=0.1; may be repeated")  # fmt: skip
    change = p.add_argument_group("what is changed most often")
    change.add_argument("--epochs", metavar="X", type=float,
                        help=f"epochs of the recipe photos, of both phases together ({photos.EPOCHS})")  # fmt: skip
    change.add_argument("--decay-epochs", metavar="X", type=float,
                        help="epochs after which the rate of the recipe photos drops to a tenth, again and again (it "
                             "falls linearly)")  # fmt: skip
    change.add_argument("--lr", metavar="X", type=float, help="base rate of the first phase; others in proportion")
    change.add_argument("--batch-size", metavar="N", type=int,
                        help="images of a step, which the workers share, with the recipe photos (16 for each); else "
                             "of each worker")  # fmt: skip
    change.add_argument("--depth", metavar="N", type=int, help="layers of the ResNet: 18, 34, 50, 101 or 152")
    change.add_argument("--crop-size", metavar="N", type=int,
                        help="side of the network's input images, 32 or more; resizes follow")  # fmt: skip
    change.add_argument("--classes", metavar="N", type=int, help="number of classes (that of the data)")
    change.add_argument("--freeze", metavar="PARTS", help="parts of the network that keep their weights, e.g. stem,2,3")
    change.add_argument("--head-lr-mult", metavar="X", type=float, help="rate of the classifier, relative to the rest")


def check_recipe_flags(args):
    """Raise InputError for values that no recipe has, and for flags that exclude each other."""
    expect_at_least(args, 1, "workers", "batch_size", "classes")
    expect_positive(args, "epochs", "decay_epochs", "lr", "head_lr_mult")
    expect_not_both(args, ("config", "solver"))
    for flag in ("epochs", "decay_epochs"):
        if getattr(args, flag) is not None and args.recipe != photos.NAME:
            raise InputError(f"{flag_of(flag)}: expected only with --recipe photos: the other recipes count iterations")


class Choice:
    """How the flags `args` choose and change a recipe.

    config               the Config of --config
    files, data, origin  SolverFiles, RunData and the Origin of the weights to start from, each None if there is none
    lines                what was derived, for the log
    """

    def __init__(self, args, config=None, files=None, data=None, origin=None):
        self.args, self.config = args, config or Config()
        self.files, self.data, self.origin, self.lines = files, data, origin, []
        short = {"depth": args.depth, "crop_size": args.crop_size, "classes": args.classes}
        pairs = [text.partition("=") for text in (*self.config.assignments, *args.assignments)]
        self.told = {name: value for name, _, value in pairs} | {k: str(v) for k, v in short.items() if v is not None}
        self.told |= {name: value for name, _, value in (text.partition("=") for text in args.assignments)}

    def recipe(self, ranks):
        """The Recipe; under a solver file, each of the `ranks` is a worker. Raises InputError for flags that contradict
        each other, the data or the weights.
        """
        args, base = self.args, self._base(ranks)
        if self.origin and not self.files:
            base = self._as_weights(base)
        crop = self.told.get("crop_size", "")
        if crop.isdecimal() and 32 <= int(crop) != base.crop_size:
            base = with_crop(base, int(crop))
            self._say_crop(base)
        if args.lr is not None:
            base = with_rate(base, args.lr)
        base = self._as_config(base)
        flags = {
            "depth": args.depth,
            "crop_size": args.crop_size,
            "precision": args.precision,
            **self._step(base),
            "classes": self._classes(base),
        }
        changes = [f"{field}={value}" for field, value in flags.items() if value is not None]
        recipe = override(base, [*changes, *args.assignments])
        if args.freeze is not None:
            recipe = frozen(recipe, args.freeze.split(","))
            self.lines.append(f"keep their weights: {args.freeze}")
        return recipe if args.head_lr_mult is None else with_head_rate(recipe, args.head_lr_mult)

    def _as_config(self, base):
        """The recipe with the fields of the file of --config, which is named in errors."""
        try:
            return override(base, self.config.assignments)
        except InputError as error:
            line = str(error).removeprefix("--set").lstrip(": ")
            raise InputError(f"{self.args.config}: {line}") from None

    def _base(self, ranks):
        """The recipe before it is changed."""
        args = self.args
        if self.config.recipe and args.recipe:
            raise InputError(f"--recipe: found together with {args.config}, which has a whole recipe, expected one of "
                             "them")  # fmt: skip
        if self.files:
            return self.files.recipe(ranks)
        if self.config.recipe:
            return self.config.recipe
        if args.recipe == photos.NAME:
            return self._photos()
        if args.recipe or args.print_solver or args.print_net:
            return get_recipe(args.recipe or DEFAULT)
        raise InputError(f"--recipe: found none, expected photos (for your own images), {', '.join(RECIPES)}, or "
                         "--solver FILE")  # fmt: skip

    def _photos(self):
        """The recipe photos, for the data sets that the flags name."""
        args, data = self.args, self.data
        if not data:
            raise InputError("--data: found none, nor --train-data, expected a folder that bin/make_lmdb has made")
        batch = args.batch_size or photos.BATCH_SIZE * (args.workers or photos.WORKERS)
        workers, each = photos.shares(batch, args.workers)
        records = data.train.records, data.val.records if data.val else 0
        return photos.photos(records, self._classes() or 1, args.epochs or photos.EPOCHS, workers, each,
                             args.decay_epochs)  # fmt: skip

    def _step(self, base):
        """{field: value} of the workers and the images of each, where flags say them."""
        args = self.args
        if base.name == photos.NAME and not self.config.recipe:
            return {}  # it has them already
        if base.name == photos.NAME and (args.workers or args.batch_size):
            batch = args.batch_size or base.workers * base.batch_size
            return dict(zip(("workers", "batch_size"), photos.shares(batch, args.workers), strict=True))
        return {"workers": args.workers, "batch_size": args.batch_size}

    def _classes(self, base=None):
        """The number of classes: what the user says, or that of the data; None: the recipe's."""
        told = self.told.get("classes")
        if self.files or not self.data or not (told or "1").isdecimal():
            return self.args.classes
        count, line = self.data.number_of_classes(told and int(told), base.classes if base else None)
        if base and count != base.classes:
            self.lines.append(line)
        return count

    def _as_weights(self, base):
        """The recipe with network and input of the weights to start from, where flags do not say another."""
        origin, changed = self.origin, []
        known = {field: origin.fields[field] for field in (*NETWORK, *PIXELS) if field in origin.fields}
        self._expect_depth(known["depth"])
        for field, value in known.items():
            if field in self.told:
                told = override(base, [f"depth={known['depth']}", f"{field}={self.told[field]}"])
                if getattr(told, field) != value:
                    self.lines.append(
                        f"{field} {self.told[field]}; the weights in {origin.name} were made with {value}"
                    )
            elif getattr(base, field) != value:
                changed.append(f"{field} {value}")
        base = replace(base, **{field: value for field, value in known.items() if field not in self.told})
        crop = origin.fields.get("crop_size")
        if crop and base.name == photos.NAME and not self.config.recipe and "crop_size" not in self.told:
            base = with_crop(base, crop, origin.fields.get("test_resize"))
            changed += [f"crop_size {crop}", f"test_resize {base.test_resize}"]
        if changed:
            self.lines.append(f"as the weights in {origin.name}: {', '.join(changed)}")
        return base

    def _expect_depth(self, depth):
        """Raise InputError if a flag contradicts the depth of the weights."""
        if self.told.get("depth", str(depth)) != str(depth):
            raise InputError(f"--depth: found {self.told['depth']}, expected {depth}, that of the weights in "
                             f"{self.origin.name}")  # fmt: skip

    def _say_crop(self, recipe):
        resized = [phase.name for phase in recipe.phases if phase.resize and "resize" not in self.told]
        parts = ["test images"] * (recipe.test_resize is not None and "test_resize" not in self.told)
        parts += [f"those of phase {', '.join(resized)}"] * bool(resized)
        if parts:
            size = recipe.test_resize or next(phase.resize for phase in recipe.phases if phase.resize)
            self.lines.append(f"crop of {recipe.crop_size}: {' and '.join(parts)} are resized to {size}")
