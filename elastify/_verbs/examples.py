"""What a model is run with where a run is needed: an example of the user, or one like that which it remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from elastify import _adapters
from elastify._capture import Example, example_like, prepare_examples, prepare_inputs
from elastify._errors import ElastifyError
from elastify._ir import ExampleSpec
from elastify._rewrite import SPEC
from elastify._space import STATE


def example_for(
    model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None
) -> Example:
    """The first of `examples_for`."""
    return examples_for(model, example_inputs, example_kwargs)[0]


def examples_for(
    model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None, examples: Any = None
) -> list[Example]:
    """Arguments for forward: those given, with a batch above 1; else stand-ins for what the model was made elastic
    with; else what the model's library tells."""
    given: list[Example] = []
    if example_inputs is not None or example_kwargs:
        given.append(prepare_inputs(example_inputs, example_kwargs))
    if examples is not None:
        given += prepare_examples(examples)
    if given:
        return given
    described = described_examples(model)
    if described and described[0] is not None:
        device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
        return [example_like(spec, device=device) for spec in described if spec is not None]
    found = _adapters.of(model).example_inputs(model)
    if found is None:
        raise ElastifyError(
            f"elastify needs example inputs for {type(model).__name__}",
            why=f"they are inferred for models of {_adapters.known()} only",
            fix="elastify(model, torch.randn(2, 3, 224, 224)); a tuple for several, or example_kwargs={...}",
        )
    return [prepare_inputs(*found)]


def described_examples(model: nn.Module) -> tuple[ExampleSpec | None, ...]:
    """What an elastic model, or one that was extracted, remembers of each example that it was made elastic with."""
    known, extracted = model.__dict__.get(STATE), model.__dict__.get(SPEC)
    if known is not None:
        return known.examples
    written = extracted.get("examples", ()) if extracted else ()
    return tuple(None if data is None else ExampleSpec.from_json(data) for data in written)
