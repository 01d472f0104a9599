"""The results of an evaluation as lines for people, or as JSON."""

import json
import os
from math import isfinite

from nptrain.report.table import WIDTH, columns
from nptrain.run.log import TOP5_CLASSES

NUMBER = 7  # characters of 100.00%
NOT_FINITE = "the scores of the weights are not finite numbers"


def text(paths, results, per_class, as_json):
    """The results as the user wants them: of each member of an ensemble, if there are several, and at last of all, then
    of each class: `per_class` are rows (label, name or None, records, hits). Below TOP5_CLASSES classes there is no
    top-5, which would count nearly every image as right.
    """
    kept = [name for name in results[-1] if name != "top5" or results[-1]["classes"] >= TOP5_CLASSES]
    *members, result = ({name: scores[name] for name in kept} for scores in results)
    if as_json:
        return _json(paths, members, result, per_class)
    lines = [table(paths, members, result)] if members else [f"{result['records']} images: {said(result)}"]
    rows = [(str(label), name or "", f"{records} images", f"{hits / records:.2%}" if records else "")
            for label, name, records, hits in per_class]  # fmt: skip
    if rows:
        lines += columns([("class", "", "", "top-1"), *rows], right=(0, 2, 3))
    return "\n".join(lines)


def said(result):
    """The scores of a result in words."""
    shown = [f"loss {result['loss']:.4f}", f"top-1 {result['top1']:.2%}"]
    return ", ".join(shown + ([f"top-5 {result['top5']:.2%}"] if "top5" in result else []))


def _json(paths, members, result, per_class):
    """One JSON object, which knows no NaN: null stands for it, and for the scores beside it, and "why" says why."""
    found = finite(result)
    if members:
        found["members"] = [{"weights": path, **finite(one)} for path, one in zip(paths, members, strict=True)]
    if per_class:
        names = ("label", "class", "records", "top1")
        rows = ((label, name, records, hits / records if records else None) for label, name, records, hits in per_class)
        found["per_class"] = [dict(zip(names, row, strict=True)) for row in rows]
    return json.dumps(found, allow_nan=False)


def finite(result):
    """A result for JSON."""
    if isfinite(result["loss"]):
        return dict(result)
    return {name: value if name in ("records", "classes") else None for name, value in result.items()} | {
        "why": NOT_FINITE
    }


def table(paths, results, ensemble):
    """The results of the members and of the ensemble, as lines of up to 80 columns."""
    above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = [*(os.path.relpath(path, above) for path in paths), f"ensemble of {len(paths)}"]
    kinds = [(kind, title) for kind, title in (("top1", "top-1"), ("top5", "top-5")) if kind in ensemble]
    most = WIDTH - (1 + len(kinds)) * (2 + NUMBER)  # characters of a file's name beside the numbers
    names = [name if len(name) <= most else f"...{name[3 - most :]}" for name in names]
    head = (f"{ensemble['records']} images", *(title.rjust(NUMBER) for title in ("loss", *(t for _, t in kinds))))
    rows = [(name, f"{scores['loss']:.4f}", *(f"{scores[kind]:.2%}" for kind, _ in kinds))
            for name, scores in zip(names, [*results, ensemble], strict=True)]  # fmt: skip
    return "\n".join(columns([head, *rows], right=range(1, 2 + len(kinds))))
