"""A wiring as an HTML page: the picture, and its axes as a table with the reasons that tie them together."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from elastify._report.picture import STYLE, wiring_picture
from elastify._report.wiring import Wiring

_PAGE = """
body { margin: 0 auto; padding: 1.5rem; max-width: 90rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", sans-serif; }
figure { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--edge); } td.n { text-align: right; } summary { cursor: pointer; }
"""


def wiring_page(found: Wiring) -> str:
    """The page as HTML text, which stands by itself."""
    title = f"What the sizes of {found.title} run through"
    rows = "\n".join(_table_rows(found))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{_PAGE}</style></head>
<body class="wiring">
<h1>{escape(title)}</h1>
<figure>
{wiring_picture(found)}</figure>
<h2>Axes</h2>
<table>
<thead><tr><th>axis</th><th>role</th><th>full</th><th>choices</th><th>modules</th><th>why it is one</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def _table_rows(found: Wiring) -> Iterator[str]:
    for line in sorted(found.lines, key=lambda line: (line.first, line.lane)):
        choices = ", ".join(map(str, line.choices)) if len(line.choices) < 9 else _ends(line.choices)
        reasons = "".join(f"<br>{escape(reason)}" for reason in line.reasons)
        count = f"{len(line.reasons)} operation{'s' * (len(line.reasons) != 1)}"
        why = f"<details><summary>{count}</summary>{reasons.removeprefix('<br>')}</details>" if reasons else ""
        yield (
            f"<tr><td>{escape(line.name)}</td><td>{escape(line.role)}</td><td class='n'>{line.size}</td>"
            f"<td>{choices}</td><td class='n'>{len(line.marks)}</td><td>{why}</td></tr>"
        )


def _ends(choices: tuple[int, ...]) -> str:
    return f"{choices[0]} to {choices[-1]}, {len(choices)} sizes"
