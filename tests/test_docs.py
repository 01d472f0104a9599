"""README and docs: links lead somewhere, files exist, command lines parse, and Python examples run."""

import argparse
import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from commands import PROJECT, as_before
from PIL import Image
from weights import write_layers

import nptrain
from bin.commands import export
from kernels import naive
from nptrain import RECIPES, ResNet, Solo
from nptrain.network.layers import Architecture
from nptrain.recipes import photos
from nptrain.recipes.recipe import override

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
COMMANDS = sorted(path.name for path in (PROJECT / "bin").iterdir() if path.is_file() and not path.suffix)
CODE = re.compile(r"^```(\w*)\n([\s\S]*?)^```$|((?:^ {4}.*\n)(?:^ {4}.*\n|^\n(?= {4}))*)", re.M)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w./~-])(?:bin|docs|kernels|mpi|nptrain|tests)/[\w.*/-]*\w")
PYTHON_FILE = re.compile(r"(?<![\w./*-])\w+\.py\b")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
LAUNCHERS = {
    "--bind-to",
    "--cpus-per-task",
    "--exclude",
    "--host",
    "--hostfile",
    "--map-by",
    "--mca",
    "--mpi",
    "--no-kill",
    "--nodes",
    "--ntasks",
    "--output",
    "--overlap",
    "--prtemca",
    "--with-ft",
}  # flags of mpirun and srun

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def tracked():
    """The files in git, and the folders above them, as paths from the project's."""
    done = subprocess.run(["git", "-C", PROJECT, "ls-files"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs git and its repository")
    files = {Path(line) for line in done.stdout.splitlines()}
    return {str(path) for file in files for path in (file, *file.parents)}


def prose(page):
    """The text of a page without its blocks of code."""
    return CODE.sub("", page.read_text())


def blocks(page, *languages):
    """The blocks of code in these languages; "" is an indented one, or a fence that names none."""
    for language, fenced, indented in CODE.findall(page.read_text()):
        if language in languages:
            yield fenced or re.sub("^    ", "", indented, flags=re.M)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall("^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_to_files_in_git_and_to_headings(page, tracked):
    found = [link for link in LINK.findall(prose(page)) if not link.startswith("https://")]
    for link in found:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert str(target.relative_to(PROJECT.resolve())) in tracked, link
        assert not anchor or anchor in anchors(target), link


def test_every_page_and_picture_is_linked_to(tracked):
    found = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in LINK.findall(prose(page))}
    missing = [path for path in tracked if path.startswith("docs/") and (PROJECT / path).resolve() not in found]
    assert not missing


@each_page
def test_files_that_are_named_exist(page, tracked):
    """In prose, in code, and in blocks: a path from the project's folder, or the name of a Python file."""
    text = page.read_text()
    names = {Path(path).name for path in tracked}
    for path in FILE.findall(text):
        assert any(Path(known).match(path) for known in tracked), path
    for code in [*INLINE.findall(text), *blocks(page, "", "text")]:
        for name in PYTHON_FILE.findall(code):
            assert name in names or name == "my_program.py", name


def command_lines(page):
    """The words of every line of a command in a page's blocks: (name of the command, its arguments)."""
    for block in blocks(page, "", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if "bin/" in line else []
            for mark in {">", "&"} & {*words}:
                words = words[: words.index(mark)]
            place = next((at for at, word in enumerate(words) if Path(word).name in COMMANDS and "bin/" in word), None)
            if place is not None:
                yield Path(words[place]).name, words[place + 1 :]


def parse(command, words):
    """The arguments of a command. An ellipsis stands for any that are left out. A flag without its value, before an
    ellipsis or at the end, gets one. X and N stand for a number, [..] for what may be left out.
    """
    parser = importlib.import_module(f"bin.commands.{command}").parser()
    if "..." in words:
        words = [word for word in words if word != "..."]
        no_longer_required(parser)
    words = ["1" if word in ("N", "X") else word.strip("[]") for word in words if not word.startswith("$")]
    if words and takes_a_value(parser, words[-1]):
        words.append("1")
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        args = parser.parse_args(words)
    assert not errors.getvalue()  # a flag has another name now
    return args


def takes_a_value(parser, flag):
    actions = [action for action in parser._actions if flag in action.option_strings]
    return any(action.nargs is None for action in actions)


def no_longer_required(parser):
    for action in parser._actions:
        action.required = False
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            action.nargs = "*"


def check_recipe(command, args):
    """What flags say of a recipe is there: its name, the fields that are set, the phases that are run."""
    name = getattr(args, "recipe", None)
    if name == photos.NAME:
        assert command == "train"
        return
    recipe = RECIPES[name or "resnet50-448nodes"]
    override(recipe, getattr(args, "assignments", []))
    for phase in (getattr(args, "phase", None) or "").split(",") if command == "train" else ():
        assert not phase or recipe.phase(phase)


@each_page
def test_command_lines_in_blocks_parse(page):
    for command, words in command_lines(page):
        check_recipe(command, parse(command, words))


@each_page
def test_command_lines_in_prose_parse(page):
    """Here arguments that a command needs may be left out."""
    for code in INLINE.findall(page.read_text()):
        words = shlex.split(code) if "bin/" in code else []
        place = next((at for at, word in enumerate(words) if word.removeprefix("bin/") in COMMANDS), None)
        if place is not None and words[place].startswith("bin/") and words[place + 1 :]:
            command = words[place].removeprefix("bin/")
            check_recipe(command, parse(command, [*words[place + 1 :], "..."]))


def options(parser):
    """The flags of a parser and of its sub-commands, without those that have another name now."""
    for action in parser._actions:
        if action.dest != "renamed":
            yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from options(sub)


@each_page
def test_flags_in_prose_exist(page):
    known = {flag for name in COMMANDS for flag in options(importlib.import_module(f"bin.commands.{name}").parser())}
    for code in INLINE.findall(prose(page)):
        for flag in FLAG.findall(code):
            assert flag in known | LAUNCHERS, flag


def test_there_are_command_lines():
    found = {command for page in PAGES for command, _ in command_lines(page)}
    assert found == set(COMMANDS)


def test_the_table_in_the_readme_has_every_command():
    rows = re.findall(r"^\| (`bin/.*?) \|", (PROJECT / "README.md").read_text(), re.M)
    assert sorted(re.findall(r"bin/(\w+)", " ".join(rows))) == COMMANDS


@each_page
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
    lines = [line for block in blocks(page, "", "sh") for line in block.splitlines()]
    for line in [*lines, *INLINE.findall(page.read_text())]:
        if line.startswith("make "):
            assert line.split()[1] in targets, line


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda p: p.name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    """A page's examples, one after another, in a folder with the files that they read."""
    monkeypatch.chdir(tmp_path)
    if page.name == "caffe.md":
        make_deploy_files()
        pytest.importorskip("cv2")
    if page.name == "export.md":
        make_onnx_file()
    names = {"__name__": page.name}
    with as_before():
        numba.set_num_threads(1)  # on small images several threads wait for each other most of the time
        for number, example in enumerate(blocks(page, "python"), 1):
            exec(compile(example, f"{page.name}, example {number}", "exec"), names)


def make_deploy_files():
    """What docs/caffe.md writes by bin/export, of a smaller network, and a photograph."""
    export_small("photo.jpg", "--prototxt", "deploy.prototxt", "--model", "deploy.caffemodel")


def make_onnx_file():
    """The same for docs/export.md."""
    Path("classes.txt").write_text("ant\nbee\ncat\ndog\nemu\n")
    export_small("cat.jpg", "--onnx", "photos.onnx", "--with-preprocessing")


def export_small(photograph, *flags):
    """Export a small network's weights, and make a photograph."""
    network = ResNet(naive, classes=5, architecture=Architecture(18))
    network.arena.initialise(seed=0)
    write_layers("weights.caffemodel", "ResNet", network.arena.export())
    export.main(["--weights", "weights.caffemodel", "--recipe", "resnet50-448nodes", "--set", "depth=18", *flags],
                Solo())  # fmt: skip
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)).save(photograph)


def test_exports_are_lazy_and_are_no_modules():
    body = "import sys, nptrain; names = {name.split('.')[0] for name in sys.modules}\n"
    body += "assert not names & {'numpy', 'numba', 'kernels'}, names\n"
    body += "import nptrain.train  # which imports most modules\n"
    body += "assert not any(isinstance(getattr(nptrain, name), type(sys)) for name in nptrain.__all__)"
    subprocess.run([sys.executable, "-c", body], cwd=PROJECT, check=True)
    assert dir(nptrain) == sorted(nptrain.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ResNext'"):
        _ = nptrain.ResNext
