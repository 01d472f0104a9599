"""Name what is on photographs, with the probabilities of the classes.

bin/classify runs/photos holiday/*.jpg
bin/classify runs/photos holiday --out sheet.png
find holiday -name '*.png' | bin/classify runs/photos - --csv > found.csv

MODEL is the folder of a run, whose best checkpoint is used if the run has
chosen one, else the newest; or a .caffemodel. IMAGE is a file, a folder, or -
for names of files on standard input, one a line. Several models, by --with,
are an ensemble: the mean of their probabilities.

Images are turned as their EXIF orientation says, and prepared as those of the
run's tests. A file that is no image is named on standard error, and the exit
status is 1 at the end.
"""

import csv
import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np

from bin.common import weights
from bin.common.arguments import Parser, expect_at_least, expect_not_both
from bin.common.prepare import add_arguments, kernels_and_cores
from bin.common.weights import (
    chosen_recipe,
    load_members,
    names_of_all,
    precision_note,
    read_all,
    runs_of,
    weights_of,
)
from nptrain.data.classes import read_classes, read_names
from nptrain.data.parallel import ahead
from nptrain.data.photo import files_in, read_photo
from nptrain.errors import InputError, printable
from nptrain.evaluate import probabilities
from nptrain.network.resnet import ResNet
from nptrain.report import picture

THUMBNAIL = 220, 220  # pixels of an image on the contact sheet
FIELDS = ("image", "rank", "label", "class", "probability")  # of a line of CSV


def parser():
    p = Parser(prog="classify", description=__doc__)
    p.add_argument("model", metavar="MODEL", help="folder of a run, or .caffemodel")
    p.add_argument("images", metavar="IMAGE", nargs="+", help="file, folder, or - for names on standard input")
    p.add_argument("--with", metavar="MODEL", action="append", default=[], dest="others",
                   help="another model of an ensemble; may be repeated")  # fmt: skip
    p.add_argument("--top", metavar="N", type=int, default=5, help="classes of each image (%(default)s)")
    p.add_argument("--json", action="store_true", help="print a JSON object for each image, one a line")
    p.add_argument("--csv", action="store_true", help="print a table: " + ", ".join(FIELDS))
    p.add_argument("--out", metavar="FILE", help="contact sheet to draw: .png, .svg or .pdf")
    p.add_argument("--classes", metavar="FILE", help="names of the classes, one a line, or a data set (the run's)")
    p.add_argument("--batch-size", metavar="N", type=int, help="images in a batch")
    weights.add_arguments(p)
    add_arguments(p.add_argument_group("kernels and cores"))
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    expect_at_least(args, 1, "top", "batch_size")
    expect_not_both(args, ("json", "csv"))
    if args.out:
        picture.check(args.out)
    models = (args.model, *args.others)
    paths = [weights_of(model, tell) for model in models]
    runs = runs_of(models)
    recipe, _, note = chosen_recipe(args, paths, runs=runs)
    blobs_of, classes = read_all(paths)
    recipe = replace(recipe, classes=classes)
    names = names_of(args.classes, paths, runs, classes)
    ready = kernels_and_cores(args, world, recipe)
    members, skipped = load_members(ResNet.of(recipe, ready.ops), blobs_of)
    for line in filter(None, [note, precision_note(recipe, runs), *skipped, as_stored(recipe)]):
        tell(line)
    failed, cells = [], []
    photos = good_photos(args, recipe.test_transform(), ready.cores.threads, failed)
    show = printer(args)
    for path, thumbnail, row in scored(members, photos, recipe):
        if not np.isfinite(row).all():
            raise InputError(f"{path}: the scores of {', '.join(paths)} are not finite numbers")
        best = most_probable(row, names, args.top)
        show(path, best)
        if thumbnail:
            cells.append((thumbnail, os.path.basename(path), [(name, probability) for _, name, probability in best]))
    if cells:
        draw_sheet(cells, args.out)
    if failed:
        raise SystemExit(1)


def names_of(file, paths, runs, classes):
    """The names of the classes: those of --classes, else of the runs; numbers, if they have none."""
    if file is not None:
        names = read_classes(file) if os.path.isdir(file) else read_names(file)
        if len(names or ()) != classes:
            raise InputError(f"--classes: found {len(names or ())} names in {file}, expected {classes}")
        return names
    names = names_of_all(paths, classes, runs)
    if not names:
        tell(f"the run of {paths[0]} has no names of its {classes} classes (--classes FILE): they are shown by number")
    return names or [f"class {label}" for label in range(classes)]


def as_stored(recipe):
    """A line for the user where the run's tests do not resize: its data had the right size, photographs seldom have."""
    if recipe.test_resize is not None:
        return None
    size = recipe.crop_size
    return (f"images are not resized, as in the run's tests: only the {size}x{size} pixels in the middle are seen "
            f"(--set test_resize=N resizes the shorter side)")  # fmt: skip


def good_photos(args, transform, threads, failed):
    """(path, pixels, thumbnail or None) of each image. For a file that is none a line is printed, and `failed` gets its
    path.
    """

    def load(path):
        try:
            image = read_photo(path)
            try:
                pixels = transform(image)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
        except InputError as error:
            return path, None, str(error)
        if args.out:
            image.thumbnail(THUMBNAIL)
        return path, pixels, image if args.out else None

    with closing(ahead(load, paths_of(args.images, failed), threads)) as loaded:
        for path, pixels, other in loaded:
            if pixels is None:
                tell(other)
                failed.append(path)
            else:
                yield path, pixels, other


def paths_of(images, failed):
    """The paths of the image files that are meant; for a folder without any, a line is printed."""
    for name in images:
        given = (line.rstrip("\n") for line in sys.stdin) if name == "-" else [name]
        for path in filter(None, given):
            try:
                yield from files_in(path)
            except InputError as error:
                tell(str(error))
                failed.append(path)


def scored(members, photos, recipe):
    """(path, thumbnail, probabilities of all classes) of each photo, in batches."""
    while batch := list(islice(photos, recipe.test_batch_size or recipe.batch_size)):
        rows = probabilities(members, np.stack([pixels for _, pixels, _ in batch]), recipe)
        yield from ((path, thumbnail, row) for (path, _, thumbnail), row in zip(batch, rows, strict=True))


def most_probable(row, names, count):
    """[(label, name, probability)] of the `count` most probable classes, of equal ones the one with the lower label."""
    labels = np.argsort(-row, kind="stable")[:count]
    return [(int(label), names[label], float(row[label])) for label in labels]


def printer(args):
    """A function that prints the most probable classes of a path, as the flags say."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if args.csv:
        writer.writerow(FIELDS)

    def show(path, best):
        if args.csv:
            writer.writerows((path, rank, label, name, f"{p:.6f}") for rank, (label, name, p) in enumerate(best, 1))
        elif args.json:
            top = [{"label": label, "class": name, "probability": p} for label, name, p in best]
            print(json.dumps({"image": path, "top": top}))
        else:
            words = ", ".join(f"{printable(name, 60)} {p:.1%}" for _, name, p in best)
            print(f"{printable(path, 1000)}: {words}")

    return show


def draw_sheet(cells, path):
    from nptrain.report import sheet_plot  # Matplotlib, which takes a second to load

    if len(cells) > sheet_plot.MOST:
        tell(f"{path}: has the first {sheet_plot.MOST} of {len(cells)} images")
    sheet_plot.draw(cells[: sheet_plot.MOST], path)


def tell(line):
    print(f"classify: {printable(line, 1000)}", file=sys.stderr, flush=True)
