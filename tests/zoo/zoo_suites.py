"""All suites by name. Used by the tests and by `tools/zoo.py`, which writes the table of the documentation."""

from __future__ import annotations

from suite_audio import AUDIO
from suite_first import FIRST
from suite_hf import HF, LEFT_OUT
from suite_timm import TIMM
from suite_timm_all import TIMM_ALL
from suite_torchvision import TORCHVISION
from zoo_entry import Entry

SUITES: dict[str, list[Entry]] = {
    "first": FIRST,
    "hf": HF,
    "timm": TIMM,
    "timm-all": TIMM_ALL,
    "torchvision": TORCHVISION,
    "audio": AUDIO,
}

OUTSIDE: dict[str, dict[str, str]] = {"hf": LEFT_OUT}
"""Models that belong to a suite and are not checked, with the reason."""
