"""The result of a music run as one HTML file to look at and listen to, offline.

`write_report` fills a page from plain numbers and arrays: a plot of quality against cost, the table of submodels, the
search space as rows of bars (full width and chosen widths), and one track per signal with its spectrogram
and player. Everything is inlined: plotly once, sounds as 16-bit WAV, spectrograms as paletted PNG, both as data
URIs; a content policy in the page forbids any request. Plot colours, folding and common playback are in
`report_assets/`; tables, pictures and players work without scripts too.

Spectrograms share one scale: decibels below the loudest point of the mixture, frequency on a logarithmic axis.
Sounds share one gain, which is 1 unless a sample would clip, so that loudness can be compared by ear.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from .report_media import FLOOR_DB, LOWEST_HZ, PALETTE, png, power, ticks, wav

ASSETS = Path(__file__).parent / "report_assets"
ABOUT = {"Mixture": "What the models hear.", "Target": "The true stem."}
FOLD_FROM = 5  # axes whose names differ only in numbers are folded into one row from this many on


def write_report(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write one self-contained HTML file.

    `results` holds plain values; MACs are per second of audio, SI-SDR improvements and scores in dB:

    - `title`; `licence` of the music and what was made from it
    - `model`: `name`, `params`, `macs_per_second`; and, where known, `si_sdri` of the full network trained at
      all its sizes and `si_sdri_plain` of the plainly trained one
    - `space`: `axes` with `name`, `size`, `choices`; `stages` with `name`, `blocks` (names or their number), `choices`
    - `submodels`: `name`, `budget` (a fraction of the MACs, a number of MACs, or text), `config` {axis or stage: size,
      full if left out}, `macs`, `params`, `rtf` (seconds of computing per second of audio), `si_sdri`,
      `si_sdri_naive`, and `si_sdri_alone` (or None)
    - `pareto`: `macs`, `score` of the best configurations that one or more searches found
    - `audio`: `sample_rate`, `song`, and 1-d arrays of equal length `mixture`, `target`, `estimates` {submodel: array}

    Raises ValueError for signals that are empty, not finite, or not of one length, before anything is written.
    """
    signals = _signals(results["audio"])
    submodels = results["submodels"]
    sections = (
        _header(results),
        _tradeoff(results["pareto"]),
        _table(submodels, results["model"]),
        _space(results["space"], submodels),
        _listen(results["audio"], signals, [s["name"] for s in submodels]),
        f"<footer><p>{_text(results['licence'])}</p></footer>",
    )
    data = _plotted(results)
    page = PAGE.format(
        title=_text(results["title"]),
        style=(ASSETS / "style.css").read_text(encoding="utf-8"),
        body="\n".join(sections),
        data=json.dumps(data, default=float).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
        script=(ASSETS / "script.js").read_text(encoding="utf-8"),
    )
    Path(path).write_text(page, encoding="utf-8")


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data: blob:; media-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
<script>
addEventListener("error", (event) => {{
  document.documentElement.dataset.error = event.message;
  document.getElementById("trouble").hidden = false;
}});
</script>
</head>
<body>
<p id="trouble" role="alert" hidden>This browser could not draw the plot; tables, pictures and sounds are complete.</p>
{body}
<script type="application/json" id="tradeoff-data">{data}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


# Text and tables


def _text(value: Any) -> str:
    return html.escape(str(value))


def _si(value: float) -> str:
    """A number with three digits and a prefix: 73.6e9 is `73.6 G`."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}"


def _signed(value: float, digits: int) -> str:
    """A fixed-point number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _budget(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{100 * value:.3g} % of MACs" if value <= 1 else f"{_si(value)} MACs"


def _header(results: Mapping[str, Any]) -> str:
    model, audio = results["model"], results["audio"]
    facts = {
        "Model": model["name"],
        "Parameters": _si(model["params"]),
        "MACs per second of audio": _si(model["macs_per_second"]),
        "Submodels": len(results["submodels"]),
        "Song below": audio["song"],
    }
    pairs = "".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    return (
        f'<header><h1>{_text(results["title"])}</h1><p class="lead">One network trained at all its sizes; '
        f'smaller ones taken out of it under a budget.</p></header>\n<dl class="facts">{pairs}</dl>'
    )


def _plotted(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the plot needs: the full network and the submodels as points, everything searched, and its front."""
    model = results["model"]
    full = {"name": "full", "macs": model["macs_per_second"], "si_sdri": model.get("si_sdri")}
    full |= {"si_sdri_naive": model.get("si_sdri_plain"), "si_sdri_alone": None}
    points = [{key: s.get(key) for key in full} for s in results["submodels"]]
    searched = sorted({(float(p["macs"]), float(p["score"])) for p in results["pareto"]})
    best = np.maximum.accumulate([score for _, score in searched]) if searched else []
    # A front of several searches together: what no cheaper configuration reaches.
    front = [p for i, p in enumerate(searched) if i == 0 or p[1] > best[i - 1]]
    return {"full": full, "submodels": points, "searched": searched, "front": front}


def _tradeoff(pareto: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td class="number">{_si(p["macs"])}</td><td class="number">{_signed(p["score"], 2)}</td></tr>'
        for p in sorted(pareto, key=lambda p: p["macs"])
    )
    return f"""<section><h2>Quality against cost</h2>
<p class="soft">A naive slice has the same sizes, cut from the plainly trained network, which is
the naive one at full size. Higher and further left is better.</p>
<div id="tradeoff" role="img" aria-label="Plot of SI-SDR improvement in decibels against MACs per second of audio.
The next table has the submodels' values, the list below it those of the search."></div>
<details><summary>What the search found, as numbers</summary>
<div class="scroll"><table><caption>Best configurations on the search's own songs</caption>
<thead><tr><th scope="col" class="number">MACs/s</th><th scope="col" class="number">Score (dB)</th></tr></thead>
<tbody>{rows}</tbody></table></div></details></section>"""


def _name(index: int, name: str) -> str:
    """A submodel's name behind the dot of its colour."""
    return f'<span class="dot" style="--mine: var(--s{index % 6})"></span>{_text(name)}'


def _table(submodels: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> str:
    scores = {"si_sdri": "this method", "si_sdri_naive": "naive slice"}
    if any(s.get("si_sdri_alone") is not None for s in submodels):
        scores["si_sdri_alone"] = "trained alone"
    heads = ("Budget", "MACs/s", "of full", "Parameters", "Real-time factor", *scores.values())
    lines = [
        _line(_name(index, sub["name"]), _budget(sub["budget"]), sub, model["macs_per_second"], list(scores))
        for index, sub in enumerate(submodels)
    ]
    if model.get("si_sdri") is not None:
        whole = {**model, "macs": model["macs_per_second"], "si_sdri_naive": model.get("si_sdri_plain")}
        lines.append(_line("full network", "", whole, model["macs_per_second"], list(scores)))
    head = "".join(f'<th scope="col" class="number">{title}</th>' for title in heads)
    return f"""<section><h2>Submodels</h2>
<div class="scroll"><table><caption>The last columns are SI-SDR improvement over the mixture on held-out songs, in dB,
the best of a row in bold; of the full network, the second is the plainly trained one. The real-time factor is seconds
of computing per second of audio.</caption>
<thead><tr><th scope="col">Submodel</th>{head}</tr></thead>
<tbody>{"".join(lines)}</tbody></table></div></section>"""


def _line(name: str, budget: str, row: Mapping[str, Any], full_macs: float, scores: Sequence[str]) -> str:
    """One network as a row of the table; unknown values are left empty."""
    rtf = row.get("rtf")
    cells = [_text(budget), _si(row["macs"]), f"{100 * row['macs'] / full_macs:.1f} %", _si(row["params"])]
    cells.append("" if rtf is None else f"{rtf:.3f}")
    line = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    highest = max(row[key] for key in scores if row.get(key) is not None)
    for key in scores:
        value = row.get(key)
        shown = "" if value is None else _signed(value, 2)
        line += f'<td class="number{" best" if value == highest else ""}">{shown}</td>'
    return f'<tr><th scope="row">{name}</th>{line}</tr>'


# The search space


def _space(space: Mapping[str, Any], submodels: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th scope="col">{_name(i, s["name"])}</th>' for i, s in enumerate(submodels))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for axis in space["axes"]:
        groups.setdefault(re.sub(r"\d+", "*", axis["name"]), []).append(axis)
    bodies = [_stage_rows(space["stages"], submodels)]
    for number, (pattern, axes) in enumerate(groups.items()):
        if len(axes) < FOLD_FROM:
            bodies.append(f"<tbody>{_axis_rows(axes, submodels)}</tbody>")
        else:
            bodies.append(_folded(pattern, axes, submodels, f"axes-{number}"))
    return f"""<section><h2>The search space</h2>
<div class="scroll"><table class="space"><caption>Each bar is an axis at its full width, the filled part what a submodel
keeps; each square is a block. Rows of many like axes show their mean and unfold.</caption>
<thead><tr><th scope="col">Axis or stage</th><th scope="col" class="number">Full size</th>{heads}</tr></thead>
{"".join(bodies)}</table></div></section>"""


def _row(name: str, size: Any, cells: Iterable[str], kind: str = "") -> str:
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{kind}><th scope="row">{name}</th><td class="number">{size}</td>{row}</tr>'


def _bar(index: int, ratio: float, label: str) -> str:
    fill = f'<b style="width: {100 * ratio:.1f}%; --mine: var(--s{index % 6})"></b>'
    return f'<div class="bar"><i aria-hidden="true">{fill}</i><span>{label}</span></div>'


def _axis_rows(axes: Iterable[Mapping[str, Any]], submodels: Sequence[Mapping[str, Any]], kind: str = "") -> str:
    rows = []
    for axis in axes:
        kept = [s["config"].get(axis["name"], axis["size"]) for s in submodels]
        cells = [_bar(i, size / axis["size"], str(size)) for i, size in enumerate(kept)]
        rows.append(_row(_text(axis["name"]), axis["size"], cells, kind))
    return "".join(rows)


def _folded(pattern: str, axes: Sequence[Mapping[str, Any]], submodels: Sequence[Mapping[str, Any]], key: str) -> str:
    """One row with means that unfolds into the axes."""
    cells = []
    for index, sub in enumerate(submodels):
        ratio = float(np.mean([sub["config"].get(axis["name"], axis["size"]) / axis["size"] for axis in axes]))
        cells.append(_bar(index, ratio, f"{100 * ratio:.0f} %"))
    sizes = sorted({axis["size"] for axis in axes})
    full = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"
    fold = (
        f'<button type="button" aria-expanded="true" aria-controls="{key}">{_text(pattern)}</button> ({len(axes)} axes)'
    )
    parts = _axis_rows(axes, submodels, ' class="part"')
    return f'<tbody>{_row(fold, full, cells)}</tbody><tbody id="{key}">{parts}</tbody>'


def _stage_rows(stages: Iterable[Mapping[str, Any]], submodels: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for stage in stages:
        count = stage["blocks"] if isinstance(stage["blocks"], int) else len(stage["blocks"])
        cells = []
        for index, sub in enumerate(submodels):
            chosen = sub["config"].get(stage["name"], count)
            kept = set(range(chosen)) if isinstance(chosen, int) else set(chosen)
            squares = "".join(f"<b{' class=kept' if i in kept else ''}></b>" for i in range(count))
            blocks = f'<div class="blocks" style="--mine: var(--s{index % 6})" aria-hidden="true">{squares}</div>'
            cells.append(f'<div class="bar">{blocks}<span>{len(kept)} of {count}</span></div>')
        rows.append(_row(_text(stage["name"]), f"{count} blocks", cells))
    return f"<tbody>{''.join(rows)}</tbody>"


# The tracks


def _signals(audio: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All signals by their title, in the order of the page, checked."""
    named = {"Mixture": audio["mixture"], "Target": audio["target"], **audio["estimates"]}
    signals = {name: np.asarray(signal, dtype=np.float64) for name, signal in named.items()}
    for name, signal in signals.items():
        if signal.ndim != 1 or signal.size == 0:
            raise ValueError(f"report: {name} has shape {signal.shape}; expected a 1-d array with samples")
        if not np.isfinite(signal).all():
            raise ValueError(f"report: {name} has samples that are not finite; the model behind it has diverged")
        if signal.size != signals["Mixture"].size:
            raise ValueError(f"report: {name} has {signal.size} samples, the mixture {signals['Mixture'].size}")
    return signals


def _listen(audio: Mapping[str, Any], signals: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    rate = int(audio["sample_rate"])
    seconds = signals["Mixture"].size / rate
    gain = 1 / max(1.0, *(float(np.abs(signal).max()) for signal in signals.values()))
    powers = {name: power(signal, rate) for name, signal in signals.items()}
    loudest = max(float(powers["Mixture"].max()), 1e-20)
    tracks = []
    for name, signal in signals.items():
        title = _name(names.index(name), name) if name in names else _text(name)
        decibels = 10 * np.log10(np.maximum(powers[name] / loudest, 1e-20))
        alt = (
            f"Spectrogram of {name}: 0 to {seconds:.1f} s, {LOWEST_HZ:.0f} Hz to {rate / 2000:.1f} kHz on a "
            f"logarithmic axis, {-FLOOR_DB:.0f} to 0 dB below the loudest point of the mixture"
        )
        tracks.append(f"""<article class="track">
<div><h3>{title}</h3><p class="soft">{ABOUT.get(name, "What this submodel separates.")}</p>
<audio controls preload="metadata" aria-label="{_text(name)}" src="{wav(signal * gain, rate)}"></audio></div>
<figure class="spectrogram"><img alt="{_text(alt)}" src="{png(1 - decibels / FLOOR_DB)}">
{ticks(seconds, rate)}<span class="cursor"></span></figure></article>""")
    colours = ", ".join(f"rgb{colour}" for colour in PALETTE)
    note = "" if gain == 1 else f" All tracks are played at {_signed(20 * np.log10(gain), 1)} dB so that none clips."
    return f"""<section><h2>Listen</h2>
<p class="soft">{_text(audio["song"])}, {seconds:.1f} s at {rate} Hz.{note}</p>
<label class="switch"><input type="checkbox" id="together" checked> Changing tracks keeps the place in the song</label>
<div class="scale">{_signed(FLOOR_DB, 0)} dB <i style="background: linear-gradient(90deg, {colours})"></i>
0 dB, the loudest point of the mixture; time in seconds, frequency in hertz</div>
{"".join(tracks)}</section>"""
