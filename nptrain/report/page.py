"""A self-contained HTML page: text, tables and pictures, the latter also as PNG files in a folder beside it."""

import base64
import io
from contextlib import contextmanager
from html import escape
from pathlib import Path

from nptrain.files import atomic_write, writing
from nptrain.report.report_plot import pictures, smaller

STYLE = Path(__file__).with_name("report.css")
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
"""
PHOTO = 128  # pixels of a small photograph's longer side


class Page:
    """The page `path`, which is written by `save`; its pictures are written at once, to the folder `path` without its
    suffix. All texts are escaped. Raises InputError for what cannot be written.
    """

    def __init__(self, path, title):
        self.path, self.folder = Path(path), Path(path).with_suffix("")
        self.parts = [HEAD.format(title=escape(title), style=STYLE.read_text())]

    def text(self, tag, text, kind=""):
        """An element of one text."""
        attribute = f' class="{kind}"' if kind else ""
        self.parts.append(f"<{tag}{attribute}>{escape(text)}</{tag}>\n")

    @contextmanager
    def inside(self, tag, kind="", summary=None):
        """What the block adds is inside of an element."""
        self.parts.append(f'<{tag} class="{kind}">\n' if kind else f"<{tag}>\n")
        if summary:
            self.text("summary", summary)
        yield
        self.parts.append(f"</{tag}>\n")

    def table(self, rows, head=None):
        """Rows of texts."""
        lines = [_row("th", head)] if head else []
        lines += [_row("td", row) for row in rows]
        self.parts.append('<div class="scroll"><table>\n' + "".join(lines) + "</table></div>\n")

    def numbers(self, entries):
        """{name: text}, large."""
        boxes = (f"<div>{escape(name)}<b>{escape(text)}</b></div>" for name, text in entries.items())
        self.parts.append(f'<div class="numbers">{"".join(boxes)}</div>\n')

    def figure(self, name, make, caption):
        """The Figure that make() returns, and NAME.png in the folder."""
        light, dark = map(smaller, self.keep(name, make))
        self.parts.append(
            f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_uri("png", dark)}">'
            f'<img src="{_uri("png", light)}" alt="{escape(caption)}"></picture>'
            f"<figcaption>{escape(caption)}</figcaption></figure>\n"
        )

    def keep(self, name, make):
        """Write NAME.png in the folder; returns the Figure's PNGs, for light and for dark pages."""
        light, dark = pictures(make)
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            (self.folder / f"{name}.png").write_bytes(light)
        return light, dark

    def photographs(self, rows):
        """(PIL image, text) of each."""
        with self.inside("div", "photos"):
            for image, text in rows:
                source = _uri("jpeg", small(image))
                self.parts.append(f'<figure><img src="{source}" alt="{escape(text)}">'
                                  f"<figcaption>{escape(text)}</figcaption></figure>\n")  # fmt: skip

    def save(self):
        """Write the page."""
        with writing(self.path), atomic_write(self.path, "w") as file:
            file.write("".join(self.parts) + "</body>\n</html>\n")


def small(image):
    """A PIL image as a JPEG of at most PHOTO pixels a side."""
    image = image.copy()
    image.thumbnail((PHOTO, PHOTO))
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=85)
        return file.getvalue()


def _row(tag, texts):
    return "<tr>" + "".join(f"<{tag}>{escape(str(text))}</{tag}>" for text in texts) + "</tr>\n"


def _uri(kind, content):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
