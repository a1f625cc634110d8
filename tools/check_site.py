"""Check the pages of the built documentation: no include is left in them, none is nearly empty, links lead somewhere.

    mkdocs build --strict --site-dir SITE && python tools/check_site.py SITE

`mkdocs build --strict` takes an include that a formatter has broken for ordinary text, and does not follow the links of
an included file. So this reads the article of each page, prints every breach as `page: what`, and exits with 1 if there
is one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

MIN_WORDS = 80
DIRECTIVE = re.compile(r"-{2,}\s*8\s*<\s*-{2,}|^\s*:::\s+\w", flags=re.MULTILINE)
ABSOLUTE = re.compile(r"[a-z]+:|/|$")
WITHOUT_ARTICLE = {"404.html"}


class Article(HTMLParser):
    """The text and the links inside `<article>`: what a page says, without navigation and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.links, self._depth = "", list[str](), 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag == "article"
        if self._depth and tag == "a":
            self.links.append((dict(attrs).get("href") or "").partition("#")[0])

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "article"

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.text += data


def page_breaches(page: Path) -> Iterator[str]:
    """What is wrong with one page of a built site."""
    article = Article(page.read_text(encoding="utf-8"))
    if left := DIRECTIVE.search(article.text):
        line = next(line for line in article.text[left.start() :].splitlines() if line.strip())
        yield f"an unresolved include: {line.strip()}"
    if (words := len(article.text.split())) < MIN_WORDS:
        yield f"nearly empty: {words} words, at least {MIN_WORDS} are expected"
    for link in dict.fromkeys(article.links):
        if not ABSOLUTE.match(link) and not (page.parent / link).exists():
            yield f"a link that leads nowhere: {link}"


def site_breaches(site: Path) -> Iterator[tuple[str, str]]:
    """All breaches of a built site as (page, what); a folder without pages is one."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield str(site), "no pages"
    for page in pages:
        name = page.relative_to(site).as_posix()
        if name not in WITHOUT_ARTICLE:
            for what in page_breaches(page):
                yield name, what


if __name__ == "__main__":
    found = list(site_breaches(Path(sys.argv[1])))
    for name, what in found:
        print(f"{name}: {what}")
    sys.exit(bool(found))
