"""Quiet blocks leave nothing behind."""

from __future__ import annotations

import gc
import weakref

from torch import nn

from elastify._capture.quiet import uncollected


def test_garbage_of_a_quiet_block_is_found_soon() -> None:
    with uncollected():
        net = nn.Linear(2, 2)
        net.__dict__["cycle"] = net
        found = weakref.ref(net)
        del net
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.collect(0)  # the young only; the old are looked through too rarely for models
    assert found() is None
