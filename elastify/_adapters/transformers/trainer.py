"""The trainer of transformers, or what to install where it cannot be had.

Imported only by who asks for `elastify.train.ElasticTrainer`.
"""

from __future__ import annotations

from importlib.util import find_spec

from elastify._errors import ElastifyError

_missing = [package for package in ("transformers", "accelerate") if find_spec(package) is None]
if _missing:
    raise ElastifyError(
        "ElasticTrainer cannot be used here",
        why=f"the Python package {_missing[0]!r} is missing",
        fix='pip install "elastify[trainer]"',
    )

from transformers import Trainer  # noqa: E402

__all__ = ["Trainer"]
