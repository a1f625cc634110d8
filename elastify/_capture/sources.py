"""Where a line of code stands: `file:line` of the user's code that ran an operation.

Frames of torch, of Python itself and of this package are passed over.
"""

from __future__ import annotations

import os
import sys
import sysconfig

import torch

from elastify._ir import ints

_short: dict[str, str] = {}
_TORCH = os.path.dirname(str(torch.__file__)) + os.sep
_HERE = os.path.dirname(__file__)
_OWN = (  # the recorder, the proofs, and the arithmetic of the integers that are handed out
    _HERE + os.sep,
    os.path.join(os.path.dirname(_HERE), "_proofs") + os.sep,
    ints.__file__,
)
_PYTHON = sysconfig.get_path("stdlib") + os.sep


def source_line() -> str:
    """`file:line` of the innermost frame outside torch, capture and proofs; torch's own where there is none."""
    frame = sys._getframe(1)
    fallback = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_TORCH):
            if not fallback and "overrides" not in file:
                fallback = f"torch/{file[len(_TORCH) :]}:{frame.f_lineno}"
        elif not (file.startswith(_OWN) or is_python(file)):
            return f"{short_path(file, frame.f_globals.get('__name__', ''))}:{frame.f_lineno}"
        elif frame.f_code.co_name == "run_recorded":
            return fallback
        frame = frame.f_back
    return fallback


def inside_torch() -> bool:
    """Whether it is torch that called what is recorded."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_TORCH)


def is_python(file: str) -> bool:
    """A file of Python itself."""
    return file.startswith(_PYTHON) and "site-packages" not in file


def short_path(file: str, module: str) -> str:
    """A file's path from its package's parent, or from the working directory."""
    if file not in _short:
        _, found, tail = file.rpartition("site-packages" + os.sep)
        here = os.getcwd() + os.sep
        if found:
            _short[file] = tail
        elif file.startswith(here):
            _short[file] = file[len(here) :]
        else:
            depth = module.count(".") + 1 + file.endswith("__init__.py")
            _short[file] = os.sep.join(file.split(os.sep)[-depth:])
    return _short[file]
