"""The music report, opened in a real browser: plots drawn, sounds complete, nothing fetched, no script error."""

from __future__ import annotations

import base64
import io
import re
import shutil
import struct
import subprocess
import wave
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipes.music_separation.report import _plotted, write_report
from recipes.music_separation.report_media import FLOOR_DB, ROWS, png, power

RATE, SECONDS = 8000, 3.0
INSTALL = (
    "chromium is missing; install it as root: apt-get update && apt-get install -y --no-install-recommends chromium"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
)


def results() -> dict[str, Any]:
    time = np.arange(int(RATE * SECONDS)) / RATE
    target = 0.9 * np.sin(2 * np.pi * 440 * time)
    mixture = target + 0.4 * np.sin(2 * np.pi * 1500 * time)  # peaks above 1: everything must be turned down alike
    axes = [{"name": "width", "size": 16, "choices": (4, 8, 16)}]
    axes += [{"name": f"masks.{i}.hidden", "size": 64, "choices": (16, 32, 64)} for i in range(6)]
    submodels = [
        {
            "name": name,
            "budget": budget,
            "config": {"width": width, **{f"masks.{i}.hidden": 16 for i in range(6)}, "blocks": kept},
            "macs": budget * 3e8,
            "params": 1e5 * budget,
            "rtf": 0.02,
            "si_sdri": score,
            "si_sdri_naive": -1.0,
            "si_sdri_alone": alone,
        }
        for name, budget, width, kept, score, alone in (
            ("large", 0.6, 12, 2, 8.0, 7.5),
            ("small <1>", 0.15, 4, (0,), 5.0, None),
        )
    ]
    return {
        "title": "Sizes & <sounds>",
        "model": {"name": "BSRNN", "params": 235_000, "macs_per_second": 3e8, "si_sdri": 9.0, "si_sdri_plain": 9.5},
        "space": {"axes": axes, "stages": [{"name": "blocks", "blocks": 2, "choices": (1, 2)}]},
        "submodels": submodels,
        "pareto": [
            {"macs": 2.9e8, "score": 9.0},
            {"macs": 1e8, "score": 3.0},
            {"macs": 4e7, "score": 4.0},
            {"macs": 4e7, "score": 4.0},
        ],
        "audio": {
            "sample_rate": RATE,
            "song": "two tones",
            "mixture": mixture,
            "target": target,
            "estimates": {"large": 0.95 * target, "small <1>": (0.8 * target).astype(np.float32)},
        },
        "licence": "Made by a test.",
    }


class Elements(HTMLParser):
    """Every opening tag of a document with its attributes."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str, name: str = "") -> list[dict[str, str | None]]:
        """Attributes of the elements of one tag, of one class where it is named."""
        return [a for kind, a in self.found if kind == tag and (not name or name in (a.get("class") or "").split())]


@dataclass(frozen=True)
class Opened:
    file: Path
    document: str
    elements: Elements
    console: str


def browse(file: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail(INSTALL)
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder / "report.html", results())
    run = browse(folder / "report.html", folder / "profile", "--dump-dom")
    return Opened(folder / "report.html", run.stdout, Elements(run.stdout), run.stderr)


def decoded(uri: str | None, kind: str) -> bytes:
    prefix = f"data:{kind};base64,"
    assert uri is not None
    assert uri.startswith(prefix)
    return base64.b64decode(uri.removeprefix(prefix))


def test_scripts_ran_without_error(opened: Opened) -> None:
    (page,) = opened.elements.all("html")
    assert "data-error" not in page
    assert "CONSOLE" not in opened.console, opened.console


def test_a_script_error_is_noticed_and_told(opened: Opened, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(opened.file.read_text().replace('getElementById("tradeoff-data")', 'getElementById("nowhere")'))
    run = browse(broken, tmp_path / "profile", "--dump-dom")
    elements = Elements(run.stdout)
    assert "data-error" in elements.all("html")[0]
    assert "CONSOLE" in run.stderr
    (notice,) = [p for p in elements.all("p") if p.get("id") == "trouble"]
    assert "hidden" not in notice


def test_a_missing_browser_fails_and_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"apt-get install .* chromium"):
        browse(tmp_path / "report.html", tmp_path / "profile")


def test_plot_is_drawn(opened: Opened) -> None:
    plot = opened.document.split('id="tradeoff"', 1)[1].split("</section>", 1)[0]
    elements = Elements(plot)
    assert len(elements.all("svg", "main-svg")) >= 2
    # Three different ones of the search; chosen and naive of two submodels and the full network; one trained alone.
    # The marks in the legend have another class.
    assert len(elements.all("path", "point")) == 3 + 3 + 3 + 1
    assert "SI-SDR improvement (dB)" in plot
    assert "small &lt;1&gt;" in plot


def test_front_of_several_searches() -> None:
    plotted = _plotted(results())
    assert plotted["searched"] == [(4e7, 4.0), (1e8, 3.0), (2.9e8, 9.0)]
    assert plotted["front"] == [(4e7, 4.0), (2.9e8, 9.0)]
    assert _plotted({**results(), "pareto": []})["front"] == []


def test_best_of_each_row_is_bold(opened: Opened) -> None:
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", opened.document.split("<h2>Submodels</h2>")[1])
    bold = [re.findall(r'class="number best">([^<]*)<', row) for row in rows[:3]]
    assert bold == [["8.00"], ["5.00"], ["9.50"]]  # the last is the full network, better when trained plainly


def test_sounds_are_complete(opened: Opened) -> None:
    signals = results()["audio"]
    expected = [signals["mixture"], signals["target"], *signals["estimates"].values()]
    gain = 1 / max(np.abs(signal).max() for signal in expected)
    players = opened.elements.all("audio")
    assert len(players) == len(expected)
    for player, signal in zip(players, expected, strict=True):
        with wave.open(io.BytesIO(decoded(player["src"], "audio/wav"))) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
        assert samples.size == signal.size
        np.testing.assert_allclose(samples, gain * signal, atol=1e-4)


def test_browser_understands_the_sounds(opened: Opened) -> None:
    lengths = [float(track.get("data-seconds") or "nan") for track in opened.elements.all("article", "track")]
    assert lengths == pytest.approx([SECONDS] * 4, abs=0.01)


def test_search_space_is_shown(opened: Opened) -> None:
    text = opened.document
    assert "12</span>" in text  # width of the large submodel
    assert "1 of 2" in text  # blocks of the small one
    (fold,) = opened.elements.all("button")
    assert fold["aria-expanded"] == "false"
    (parts,) = [body for body in opened.elements.all("tbody") if body.get("id") == fold["aria-controls"]]
    assert "hidden" in parts
    assert "masks.*.hidden" in text


def test_nothing_is_fetched(opened: Opened) -> None:
    for tag in ("script", "img", "audio", "link", "iframe"):
        for attributes in opened.elements.all(tag):
            for key in ("src", "href"):
                assert (attributes.get(key) or "data:").startswith("data:")
    policies = [meta for meta in opened.elements.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policies)
    assert opened.file.read_text().count("plotly.js v") == 1


def test_accessible(opened: Opened) -> None:
    assert all(len(image.get("alt") or "") > 20 for image in opened.elements.all("img"))
    assert all(player.get("aria-label") for player in opened.elements.all("audio"))
    assert opened.document.count("<caption>") == opened.document.count("<table")
    assert all(head.get("scope") in ("row", "col") for head in opened.elements.all("th"))
    assert opened.elements.all("html")[0]["lang"] == "en"


@pytest.mark.parametrize(("scheme", "dark"), [(1, False), (0, True)])
def test_looks_in_light_and_dark(opened: Opened, tmp_path: Path, scheme: int, dark: bool) -> None:
    shot = tmp_path / "shot.png"
    flags = (f"--screenshot={shot}", "--window-size=1280,900", f"--blink-settings=preferredColorScheme={scheme}")
    browse(opened.file, tmp_path / "profile", *flags)
    pixels = np.asarray(Image.open(shot).convert("RGB"), dtype=float)
    assert (pixels[5, 5].mean() < 60) == dark  # the page's ground
    plot = pixels[300:850]
    assert plot.std() > 8  # axes, marks and letters stand out from it
    teal = plot[..., 1] - plot[..., 0] > 60
    assert teal.sum() > 50  # the first submodel's mark


def test_spectrogram_shows_a_tone_where_it_is() -> None:
    time = np.arange(RATE) / RATE
    image = power(np.sin(2 * np.pi * 1000 * time), RATE)
    assert image.shape[0] == ROWS
    loudest = int(image.mean(1).argmax())
    centre = 40 * (RATE / 2 / 40) ** (1 - (loudest + 0.5) / ROWS)
    assert centre == pytest.approx(1000, rel=0.02)


def test_png_is_valid() -> None:
    image = np.linspace(-0.5, 1.5, 12).reshape(3, 4)
    content = decoded(png(image), "image/png")
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (4, 3)
    start = content.index(b"IDAT")
    raw = zlib.decompress(content[start + 4 : start + 4 + struct.unpack(">I", content[start - 4 : start])[0]])
    assert raw[1] == 0
    assert raw[-1] == 255
    assert FLOOR_DB < 0


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (np.full(int(RATE * SECONDS), np.nan), "not finite"),
        (np.zeros(100), "100 samples, the mixture 24000"),
        (np.zeros((2, int(RATE * SECONDS))), "expected a 1-d array"),
    ],
)
def test_unusable_signals_are_refused(tmp_path: Path, signal: np.ndarray, message: str) -> None:
    wrong = results()
    wrong["audio"]["estimates"]["large"] = signal
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "report.html", wrong)
    assert not (tmp_path / "report.html").exists()
