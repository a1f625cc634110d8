"""Making a model elastic in place, and choosing the subnet that it runs as.

`install` gives modules a generated subclass of their own class (`classes`), in which registered tensors are seen
through the active subnet; `set_active` chooses it: slices of tensors (`slices`), numbers that follow (`setters`),
blocks that stay (`blocks`). `transforms` are functions of tensors that training strategies lay over the slices.
`remove` takes it all back.

README.md in this folder walks through one example.
"""

from elastify._errors import ElastifyError
from elastify._rewrite.activate import (
    active_subnet,
    all_statistics,
    restore_statistics,
    set_active,
    setters_of,
    store_statistics,
    stored_statistics,
)
from elastify._rewrite.blocks import as_extracted, keep_entries, renumbered, shortened, stand_in, stored_in
from elastify._rewrite.buffers import remembered
from elastify._rewrite.caches import emptied, filled, remember, reset
from elastify._rewrite.changes import check_unchanged, watch
from elastify._rewrite.classes import SPEC, original_class
from elastify._rewrite.install import install, remove, strip, trial
from elastify._rewrite.slices import kept_ranges
from elastify._rewrite.state import Active, ElasticState, elastic_state, is_elastic, known_models
from elastify._rewrite.transforms import Hook, InputHook, Transform, add_parameter, attach, drop_hooks, extra_name

__all__ = [
    "SPEC",
    "Active",
    "ElasticState",
    "Hook",
    "InputHook",
    "Transform",
    "active_subnet",
    "add_parameter",
    "all_statistics",
    "as_extracted",
    "attach",
    "check_unchanged",
    "drop_hooks",
    "elastic_state",
    "emptied",
    "extra_name",
    "filled",
    "install",
    "is_elastic",
    "keep_entries",
    "kept_ranges",
    "known_models",
    "original_class",
    "remember",
    "remembered",
    "remove",
    "renumbered",
    "reset",
    "restore_statistics",
    "set_active",
    "setters_of",
    "shortened",
    "stand_in",
    "store_statistics",
    "stored_in",
    "stored_statistics",
    "strip",
    "trial",
    "watch",
]


def __getattr__(name: str) -> object:
    if name == "_revive":  # the first thing that a pickle of a whole elastic model asked for before 0.1
        raise ElastifyError(
            "this is a pickle of a whole elastic model, made by an older elastify",
            why="it names parts of the library that have moved",
            fix="open it with the version that wrote it and keep its state_dict(); then elastify(model) and load that",
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
