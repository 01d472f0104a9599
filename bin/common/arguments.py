"""The command line: one parser for all commands, and the checks that several of them make."""

import argparse
import math
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

from nptrain.errors import InputError

LARGEST, LARGEST_SEED = 2**31 - 1, 2**63 - 1


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that prints its description as it is written, takes flags only by their whole names, and raises
    InputError for a wrong command line and for whole numbers above LARGEST.
    """

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message):
        self.print_usage(sys.stderr)
        raise InputError(message)

    def parse_args(self, argv=None, namespace=None):
        args = super().parse_args(argv, namespace)
        vars(args).pop("renamed", None)  # set by `add_renamed`
        for name, value in vars(args).items():
            most = LARGEST_SEED if name == "seed" else LARGEST
            if isinstance(value, int) and value > most:
                self.error(f"argument {flag_of(name)}: found {value}, expected at most {most}")
        return args

    def parse_silently(self, argv):
        """`parse_args` without output: rank 0 prints help and usage."""
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
            return self.parse_args(argv)


def add_renamed(parser, old, new, scale=1, type=str, action="store"):
    """Accept the flag `old` for `new`, with its value times `scale`, and print once that it has another name now."""

    class Renamed(argparse.Action):
        def __call__(self, parser, namespace, value, flag=None):
            name, value = new.removeprefix("--").replace("-", "_"), value if scale == 1 else value * scale
            if not getattr(namespace, "renamed", False):
                print(f"{parser.prog}: {old} is now called {new}", file=sys.stderr)
            namespace.renamed = True
            setattr(namespace, name, [*(getattr(namespace, name) or []), value] if action == "append" else value)

    parser.add_argument(old, action=Renamed, type=type, dest="renamed", default=False, help=argparse.SUPPRESS)


def flag_of(name):
    """batch_size -> --batch-size."""
    return f"--{name.replace('_', '-')}"


def expect_at_least(args, least, *names):
    """Raise InputError where a flag of these `names` is given and is below `least`."""
    for name in names:
        value = getattr(args, name, None)
        if value is not None and value < least:
            raise InputError(f"{flag_of(name)}: found {value}, expected {least} or more")


def expect_positive(args, *names):
    """Raise InputError where a flag of these `names` is given and is not a finite number above 0."""
    for name in names:
        value = getattr(args, name, None)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{flag_of(name)}: found {value}, expected more than 0")


def expect_not_both(args, *pairs):
    """Raise InputError where both flags of a pair of names are given."""
    for one, other in pairs:
        if getattr(args, one) and getattr(args, other):
            raise InputError(f"{flag_of(one)}: found together with {flag_of(other)}, expected one of them")
