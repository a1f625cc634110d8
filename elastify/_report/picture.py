"""A wiring as an SVG picture.

Modules stand on the left, one row each, in the order of the model; lines run down beside them; the name of an axis
stands on the right, at the row where its line begins. Colours repeat every eight lanes, and differ where one line
follows another in a lane; what is made and what is taken in differ in shape as well. A line has a title with its sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from elastify._report.wiring import Line, Row, Wiring

_ROW, _LANE, _TOP, _INDENT, _LETTER = 19, 15, 64, 14, 6.7
_COLORS = 8
STYLE = """
.wiring { --page: #ffffff; --ink: #1f2328; --soft: #656d76; --band: #f3f5f7;
  --edge: #d5dae0; --c0: #0969a8; --c1: #c2410c; --c2: #15803d; --c3: #a21caf; --c4: #a16207;
  --c5: #0e7490; --c6: #be123c; --c7: #5b5bd6; }
@media (prefers-color-scheme: dark) { .wiring { --page: #14181d; --ink: #e6e9ec; --soft: #9aa4ae; --band: #1d232a;
  --edge: #343c45; --c0: #58b0ee; --c1: #f79256; --c2: #5cc98a; --c3: #e08bea; --c4: #dcb243; --c5: #4fc3d9;
  --c6: #f5849c; --c7: #a3a3f7; } }
.wiring text { font: 12px ui-sans-serif, system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink); }
.wiring .soft { fill: var(--soft); font-size: 11px; }
.wiring .head { font-weight: 600; }
.wiring .name { font-size: 15px; font-weight: 600; }
.wiring .band { fill: var(--band); stroke: var(--edge); }
.wiring .wire { stroke-width: 2.5; fill: none; stroke-linecap: round; }
.wiring .taken { fill: var(--page); stroke-width: 2; }
.wiring g.axis:hover .wire { stroke-width: 6; }
"""


def wiring_picture(found: Wiring) -> str:
    """The picture as SVG text, which stands by itself."""
    labels = max((_label_width(row) for row in found.rows), default=0)
    left = 16 + labels + 18
    right = left + found.lanes * _LANE + 12
    begins = _beginnings(found)
    width = right + max([_text(" · ".join(map(_caption, lines))) for lines in begins.values()] or [0]) + 24
    width = max(width, 16 + _text(_about(found)) + 24, 16 + _LEGEND_WIDTH)
    notes = found.relations[:12] + ([f"and {len(found.relations) - 12} more"] if len(found.relations) > 12 else [])
    width = max([width, *(32 + _text(note) for note in notes)])
    end = _TOP + len(found.rows) * _ROW
    height = end + 44 + (_ROW * (len(notes) + 1) if notes else 0)
    named = 'role="img" aria-labelledby="wiring-title wiring-desc"'
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wiring" {named} {size}>',
        f'<title id="wiring-title">What the sizes of {escape(found.title)} run through</title>',
        f'<desc id="wiring-desc">{escape(_description(found))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect width="{width:.0f}" height="{height}" fill="var(--page)"/>',
        _words(16, 26, found.title, "name"),
        _words(16, 46, _about(found), "soft"),
        *_bands(found, right - 4),
        *(_row_label(row, _y(number)) for number, row in enumerate(found.rows)),
        *(_wire(line, left + line.lane * _LANE) for line in found.lines),
    ]
    for number, lines in begins.items():
        parts.append(_captions(right, _y(number), lines))
    parts += _legend(16, end + 22)
    for number, note in enumerate(["relations between sizes", *notes] if notes else []):
        parts.append(_words(16, end + 48 + number * _ROW, note, "soft" if number else "head"))
    return "\n".join([*parts, "</svg>", ""])


def _y(number: float) -> float:
    return _TOP + number * _ROW + _ROW / 2


def _text(text: str) -> float:
    return len(text) * _LETTER


def _words(x: float, y: float, text: str, kind: str = "", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{more}>{escape(text)}</text>'


def _times(row: Row) -> str:
    ends = [path.rpartition(".")[2] for path in row.alike]
    return f"{len(ends)} alike, {ends[0]} to {ends[-1]}" if ends else ""


def _label_width(row: Row) -> float:
    return row.depth * _INDENT + _text(_times(row)) + _name_width(row) + 10


def _name_width(row: Row) -> float:
    return _text(row.label) * (1.12 if row.heading else 1)


def _row_label(row: Row, y: float) -> str:
    x = 16 + row.depth * _INDENT
    title = f"<title>{escape(row.path)}{escape(': ' + row.detail) if row.detail else ''}</title>"
    first = _words(x, y + 4, row.label, "head" if row.heading else "")
    rest = _words(x + _name_width(row) + 10, y + 4, _times(row), "soft") if row.alike else ""
    return f"<g>{title}{first}{rest}</g>"


def _bands(found: Wiring, right: float) -> Iterator[str]:
    """A box around the rows of each module that has several."""
    for number, row in enumerate(found.rows):
        if row.heading:
            after = (n for n, other in enumerate(found.rows) if n > number and other.depth <= row.depth)
            stop = next(after, len(found.rows))
            x, y = 8 + row.depth * _INDENT, _TOP + number * _ROW + 1
            size = f'width="{right - x - row.depth * 3:.1f}" height="{(stop - number) * _ROW - 2}"'
            yield f'<rect x="{x}" y="{y}" {size} rx="5" class="band"/>'


def _wire(line: Line, x: float) -> str:
    color = f"var(--c{line.color % _COLORS})"
    title = f"{line.name}: {line.size} units ({_range(line)}), {line.role}, in {len(line.marks)} modules"
    top, bottom = _y(line.first), _y(line.last)
    if top == bottom:
        top, bottom = top - 6, bottom + 6
    parts = [f'<path class="wire" stroke="{color}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>']
    parts += [_mark(x, _y(row), how, color) for row, how in line.marks.items()]
    return f'<g class="axis"><title>{escape(title)}</title>{"".join(parts)}</g>'


def _mark(x: float, y: float, how: str, color: str) -> str:
    if how == "each":
        return f'<rect x="{x - 5:.1f}" y="{y - 1.5:.1f}" width="10" height="3" fill="{color}"/>'
    taken = f'<circle class="taken" cx="{x:.1f}" cy="{y:.1f}" r="4.5" stroke="{color}"/>'
    if how == "taken":
        return taken
    if how == "both":
        return f'{taken}<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{color}"/>'


def _beginnings(found: Wiring) -> dict[int, list[Line]]:
    begins: dict[int, list[Line]] = {}
    for line in sorted(found.lines, key=lambda line: (line.first, line.lane)):
        begins.setdefault(line.first, []).append(line)
    return begins


def _range(line: Line) -> str:
    return f"{line.choices[0]} to {line.choices[-1]}" if line.choices else "fixed"


def _caption(line: Line) -> str:
    return f"{line.name} {line.size}"


def _captions(x: float, y: float, lines: list[Line]) -> str:
    spans = [f'<tspan fill="var(--c{line.color % _COLORS})">{escape(line.name)}</tspan> {line.size}' for line in lines]
    return f'<text x="{x:.1f}" y="{y + 4:.1f}">{" · ".join(spans)}</text>'


def _about(found: Wiring) -> str:
    drawn = f", {len(found.lines)} of them drawn: modules that look alike stand once" * (found.axes > len(found.lines))
    return f"{found.axes} {'axes' if found.axes != 1 else 'axis'}{drawn}. Each line is a size that can shrink."


def _description(found: Wiring) -> str:
    lines = (f"{line.name}, {line.size} units, in {len(line.marks)} modules" for line in found.lines)
    return f"{_about(found)} {'; '.join(lines)}."


_MEANINGS = (("made", "made here"), ("taken", "taken in"), ("both", "both"), ("each", "one number per unit"))
_LEGEND_WIDTH = 470


def _legend(x: float, y: float) -> Iterator[str]:
    for how, meaning in _MEANINGS:
        yield _mark(x + 6, y - 4, how, "var(--soft)")
        yield _words(x + 17, y, meaning, "soft")
        x += 17 + _text(meaning) + 22
