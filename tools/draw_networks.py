"""Draw the five networks of docs/networks.md.

    python tools/draw_networks.py

Makes each network elastic (random weights, small sizes for the language models) and writes `docs/assets/NAME.svg`,
what `elastify inspect MODEL --graph` draws.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "zoo")]

import suite_first as networks  # noqa: E402 - found by the lines above

from elastify import elastify, space  # noqa: E402
from elastify._report import wiring, wiring_picture  # noqa: E402

NETWORKS = {
    "resnet18": lambda: networks.image("torchvision", "resnet18", 64),
    "deit_tiny": lambda: networks.image("timm", "deit_tiny_patch16_224", 224),
    "bert": lambda: networks.language("bert"),
    "llama": lambda: networks.language("llama"),
    "bsrnn": networks.bsrnn,
}


def main(folder: Path = ROOT / "docs" / "assets") -> None:
    """Draw all of them into a folder."""
    folder.mkdir(exist_ok=True)
    for name, make in NETWORKS.items():
        model, args, kwargs = make()
        found = space(elastify(model, args or None, example_kwargs=kwargs))
        (folder / f"{name}.svg").write_text(wiring_picture(wiring(found.graph())), encoding="utf-8")
        print(f"{name}: {len(found.axes)} axes")


if __name__ == "__main__":
    main()
