"""The documentation in docs/, as pages of the portal.

Markdown is rendered once per process, without raw HTML. Links between pages become the portal's; links to other files of
the repository become plain text. Pictures come from docs/screenshots/ only.
"""

import posixpath
import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.urls import reverse
from markdown_it import MarkdownIt
from markdown_it.token import Token

# The sections of the table of contents, with the paths of their pages in docs/.
CONTENTS: dict[str, tuple[str, ...]] = {
    "Start": ("install", "first-connection"),
    "Tasks": ("member", "admin", "auditor", "automation"),
    "Operating": ("operating", "settings", "monitoring", "commands", "configuration-as-code", "releasing"),
    "Using": ("api", "alerts", "policy", "audit", "what-went-wrong"),
    "Clients": ("clients/python", "clients/portalctl", "clients/curl", "clients/powershell", "clients/other-tools"),
    "Background": ("security", "architecture", "decisions"),
}
PICTURES = "screenshots"
_PICTURE_NAME = re.compile(r"[a-z-]+")
PAGES = frozenset(page for pages in CONTENTS.values() for page in pages)


@dataclass(frozen=True, slots=True)
class Page:
    path: str
    title: str
    html: str  # safe: the renderer escapes everything in the text
    headings: tuple[tuple[str, str], ...]  # ID and text of each section's heading


def root() -> Path:
    return Path(settings.BASE_DIR) / "docs"


def page(path: str) -> Page | None:
    """Return the page; None if there is no page with this path, or if the documentation isn't installed."""
    return _page(path) if path in PAGES else None  # a path that someone made up is not kept


@cache
def _page(path: str) -> Page | None:
    markdown, tokens = _renderer(), tokens_of(path)
    if not tokens:
        return None
    title, headings = path, []
    for token, id_, text in find_headings(tokens):
        token.attrSet("id", id_)
        if token.tag == "h1":
            title = text
        elif token.tag == "h2":
            headings.append((id_, text))
    for token in tokens:
        if token.type == "table_open":
            token.attrSet("class", "table table-vcenter")
        elif token.type in ("fence", "code_block"):
            token.type = "fence"  # so that attributes go to <code>, which scrolls
            token.attrSet("tabindex", "0")  # so that long lines can be scrolled with the keyboard
        elif token.type == "inline":
            _point_links(token, path)
            _point_pictures(token, path)
    body = tokens[3:] if tokens[0].tag == "h1" else tokens
    return Page(path, title, markdown.renderer.render(body, markdown.options, {}), tuple(headings))


def tokens_of(path: str) -> list[Token]:
    """Return the parsed page; nothing if there is none of this path, or if the documentation isn't installed."""
    file = root() / f"{path}.md"
    if path not in PAGES or not file.is_file():
        return []
    return _renderer().parse(file.read_text("utf-8"))


def contents() -> list[tuple[str, list[Page]]]:
    """Return the sections with the installed pages."""
    return [(title, [document for path in paths if (document := page(path))]) for title, paths in CONTENTS.items()]


def slug(heading: str) -> str:
    """Return a heading's ID as on GitHub, so that links work there and here."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _renderer() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _point_links(inline: Token, path: str) -> None:
    """Change links to lead to the portal's pages. Remove those to files that the portal doesn't show."""
    unlinked = False
    for child in inline.children or ():
        if child.type == "link_open":
            target = link_target(str(child.attrGet("href") or ""), path)
            unlinked = target is None
            if target is None:
                child.tag, child.attrs = "span", {}
            else:
                child.attrSet("href", target)
        elif child.type == "link_close" and unlinked:
            child.tag, unlinked = "span", False


def link_target(href: str, path: str) -> str | None:
    """Return the URL for a link on a page; None if it leads to a file that isn't a page."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc or not parts.path:
        return href
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), parts.path)).removesuffix(".md")
    if target not in PAGES:
        return None
    return reverse("documentation_page", args=[target]) + (f"#{parts.fragment}" if parts.fragment else "")


def picture(name: str) -> Path | None:
    """Return the file of a picture in docs/screenshots/; None if there is none of this name."""
    file = root() / PICTURES / f"{name}.png"
    return file if _PICTURE_NAME.fullmatch(name) and file.is_file() else None


def _point_pictures(inline: Token, path: str) -> None:
    """Show the picture for the reader's colour theme, and the text of pictures from anywhere else."""
    children: list[Token] = []
    for child in inline.children or ():
        children += _themed(child, path) if child.type == "image" else [child]
    inline.children = children


def _themed(image: Token, path: str) -> list[Token]:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), str(image.attrGet("src") or "")))
    folder, name = posixpath.split(target.removesuffix(".png"))
    files = [(suffix, picture(f"{name}{suffix}")) for suffix in ("", "-dark")] if folder == PICTURES else []
    files = [(suffix, file) for suffix, file in files if file]
    if not files:
        return [Token("text", "", 0, content=image.content)]
    hidden = {"": " hide-theme-dark", "-dark": " hide-theme-light"} if len(files) == 2 else {}
    return [_image(image, suffix, file, hidden.get(suffix, "")) for suffix, file in files if file]


def _image(image: Token, suffix: str, file: Path, hidden: str) -> Token:
    with file.open("rb") as png:
        width, height = struct.unpack(">II", png.read(24)[16:])  # so that nothing moves when it arrives
    attrs: dict[str, str | int | float] = {
        "src": reverse("documentation_picture", args=[file.stem]),
        "width": width,
        "height": height,
        "loading": "lazy",
        "class": f"screenshot{hidden}",
        "alt": "",  # filled in by the renderer
    }
    return Token("image", "img", 0, attrs=attrs, content=image.content, children=image.children)


def headings_of(text: str) -> Sequence[str]:
    """Return the IDs of all headings in a Markdown text."""
    return [id_ for _, id_, _ in find_headings(_renderer().parse(text))]


def find_headings(tokens: Sequence[Token]) -> list[tuple[Token, str, str]]:
    """Return each heading's token, ID and text. If a text occurs again, -1 is added to its ID, as on GitHub."""
    headings, seen = [], Counter[str]()
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in tokens[number + 1].children or ())
            id_ = slug(text)
            headings.append((token, f"{id_}-{seen[id_]}" if seen[id_] else id_, text))
            seen[id_] += 1
    return headings
