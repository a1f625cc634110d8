"""transformers: every model has a configuration, from which its class is built.

The library's class is in `models`: how a model is built by name, from its notes, and how it generates; `inputs` makes
dummy inputs for any of them; `pretrained` lets an extracted model be saved in the library's own way where its
configuration says what it is. `trainer` hands out the library's trainer, and is imported by its own name, because that
imports the library.
"""

from elastify._adapters.transformers.models import Transformers

__all__ = ["Transformers"]
