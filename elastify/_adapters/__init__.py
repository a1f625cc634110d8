"""What elastify knows about other libraries, and nothing elsewhere does.

`of(model)` is the `Library` that a model comes from: an object with defaults that know nothing (`library`) and one
subclass in a file of its own for each package that is known. Every file of this folder is read, so that a new library
is one more file; the package itself is never imported to ask (a model of it can only exist where it has been).

`build` makes a model by its name, as the command does (`build`); `build_like` makes the full-size model that a saved
folder came from.
"""

from importlib import import_module
from pkgutil import iter_modules

from elastify._adapters.build import LARGE, build, known, makers
from elastify._adapters.library import LIBRARIES, Library, Run, attention_by_hand, build_like, guard, named, of
from elastify._adapters.weightless import Weightless

for _found in iter_modules(__path__, f"{__name__}."):
    import_module(_found.name)

__all__ = [
    "LARGE",
    "LIBRARIES",
    "Library",
    "Run",
    "Weightless",
    "attention_by_hand",
    "build",
    "build_like",
    "guard",
    "known",
    "makers",
    "named",
    "of",
]
