"""The whole check on the models of the first and the audio suite; nothing of their architectures stays rigid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from suite_audio import AUDIO
from suite_first import FIRST
from zoo_entry import Entry, missing

from elastify.testing import check_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The workers of a parallel run share the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [*FIRST, *AUDIO], ids=lambda entry: entry.name)
def test_model(entry: Entry) -> None:
    model, args, kwargs = entry.make()
    report = check_model(model, args, example_kwargs=kwargs, **entry.options)
    report.assert_passed()
    assert report.space is not None
    assert report.space.verified
    assert missing(entry, [name for name, _ in model.named_parameters()], report.space) == []
    small_enough = report.smallest_macs <= 0.2
    assert small_enough != bool(entry.why_large), f"smallest: {report.smallest_macs:.1%} of the MACs"
