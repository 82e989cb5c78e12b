"""Names as an attacker, or a bad day, would choose them, and what must come of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

MARK = "data-hacked"
"""An attribute of the page's root that a script which is run leaves behind."""

_SCRIPT = f"document.documentElement.setAttribute('{MARK}',1)"

NAMES = (
    f'x"><script>{_SCRIPT}</script>',
    f"x'><img src=x onerror={_SCRIPT}>",
    f'" onload="{_SCRIPT}" onmouseover="{_SCRIPT}',
    f"</title></style></svg></table><svg onload={_SCRIPT}>",
    f"--><script>{_SCRIPT}</script><!--",
    f"]]><script>{_SCRIPT}</script>",
    f"javascript:{_SCRIPT}",
    "&lt;script&gt; &amp; &#60;b&#62;",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "[bold red]x[/bold red] [link=https://example.org]y[/link] [/nothing] :boom: \\[",
    "\x1b[2J\x1b[1;31mred\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]0;title\x07 \x9b2J \x08\x08\x7f \x00",
    "first\nsecond\r\nthird\x0b\x85\u2028fourth\tfifth",
    "\u202egnp.exe\u2066 \u200b",
    "\ud800 \udfff",
    "\udcff\udc80",
    '=HYPERLINK("https://example.org")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "\uff1d1+1",
    r"$\frac$ $x",
    r"\$\alpha$ $$",
    "_hidden",
    "a|b | `c` **d** [e](https://example.org) <f> \\",
    "' or 1=1 --",
    "../../../etc/passwd",
    "%s %d {0} {name!r}",
    "ξ φ Δ № 漢字",
)

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Page(HTMLParser):
    """A page as a browser takes it apart; raises AssertionError of what no page of ours has."""

    ATTRIBUTES: ClassVar = {
        *("align", "alt", "aria-label", "charset", "class", "content", "cx", "cy", "d", "height"),
        *("href", "http-equiv", "id", "lang", "name", "r", "role", "src", "style", "text-anchor"),
        *("transform", "type", "version", "viewbox", "width", "x", "x1", "x2", "y", "y1", "y2"),
        *("clip-path", "data-label"),
    }
    TAGS: ClassVar = {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "a", "b", "br"),
        *("sub", "nav", "div", "span", "code", "table", "thead", "tbody", "tr", "th", "td", "ul"),
        *("li", "dl", "dt", "dd", "details", "summary", "figure", "figcaption", "img"),
        *("svg", "g", "defs", "path", "use", "text", "tspan", "rect", "circle", "line", "clippath"),
    }
    VOID: ClassVar = {"meta", "br", "img"}
    REFERENCE = re.compile(
        r"#[a-z0-9_-]+|https://[a-z0-9./_-]+|data:image/png;base64,[\w+/=]+", re.I
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.labels: list[str] = []
        self.identifiers: list[str] = []
        self.targets: list[str] = []
        self.policy = ""
        assert not CONTROLS.search(text)
        text.encode()
        self.feed(text)
        self.close()
        assert not self.open
        assert len(self.identifiers) == len(set(self.identifiers))
        assert set(self.targets) <= set(self.identifiers)
        assert "script" not in self.policy.replace("script-src 'none'", "")
        assert "default-src 'none'" in self.policy

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.TAGS, tag
        if tag not in self.VOID:
            self.open.append(tag)
        assert len(dict(attrs)) == len(attrs)
        for name, value in attrs:
            assert name in self.ATTRIBUTES, (tag, name)
            value = value or ""
            if name == "id":
                assert re.fullmatch(r"[A-Za-z][\w.-]*", value, re.ASCII), value
                self.identifiers.append(value)
            elif name in ("href", "src"):
                assert self.REFERENCE.fullmatch(value), value
                self.targets += [value[1:]] if value.startswith("#") else []
            elif name in ("aria-label", "data-label"):
                self.labels.append(value)
            elif name == "http-equiv":
                self.policy = dict(attrs)["content"] or ""
            elif name != "content":
                assert re.fullmatch(r"[\w\s.,:;()#%/='-]*", value, re.ASCII), (name, value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def drawing(text: str) -> list[str]:
    """The texts of an SVG file, which has nothing but shapes, texts and references within."""
    assert not CONTROLS.search(text)
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("}svg")
    for element in root.iter():
        space, _, tag = element.tag.partition("}")
        if space != "{http://www.w3.org/2000/svg":  # what matplotlib says of the file
            assert (
                "w3.org/1999/02/22-rdf-syntax-ns#" in space
                or "creativecommons" in space
                or ("purl.org/dc" in space)
            )
            continue
        assert tag.lower() in Page.TAGS | {"metadata"}, tag
        for name, value in element.items():
            local = name.rpartition("}")[2]
            assert local.lower() in Page.ATTRIBUTES, name
            if local == "href":
                assert re.fullmatch(r"#[\w-]+", value), value
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def ran(path: Path, folder: Path) -> bool:
    """Whether a script ran when Chromium opened the file."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", f"--user-data-dir={folder}", "--virtual-time-budget=2000"),
            *("--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "</svg>" in done.stdout, done.stdout  # it was shown
    return f'{MARK}="1"' in done.stdout
