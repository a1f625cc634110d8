"""Text written by a subnet: the same tokens activated and extracted, with the cache of keys and values on.

Where the whole network writes the same with and without a cache, the extracted one must, too: a size that a cache was
given wrongly would show.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from elastify import ElastifyError, activate, elastify, extract, space
from elastify._verify import redraw

NEW = 6
PROMPT = 8


def writes(model: nn.Module) -> bool:
    """Whether the model can generate."""
    return bool(getattr(model, "can_generate", bool)()) and hasattr(model, "generate")


def _placeholders(model: Any) -> list[int]:
    """Tokens that stand for parts of pictures and sounds: not to be written, nor cut off."""
    names = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id")
    return [n for n in (getattr(model.config, name, None) for name in names) if isinstance(n, int)]


def check_generation(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], draws: int = 2) -> list[str]:
    """What is wrong with generation, for the smallest and some random configurations; the model is not changed."""
    if not writes(model):
        return []
    prompt = {k: v for k, v in kwargs.items() if k not in ("use_cache", "decoder_input_ids")}
    ids = prompt.get("input_ids")
    if ids is not None and not set(_placeholders(model)) & set(ids.flatten().tolist()):
        prompt["input_ids"] = ids[:, :PROMPT]
    elastic: Any = copy.deepcopy(model).eval()
    try:
        reference = _write(elastic, prompt, cache=True)
        alike = torch.equal(reference, _write(elastic, prompt, cache=False))
    except Exception as error:  # noqa: BLE001 - the original cannot do it: nothing of ours is tested
        return [f"generate() of the original fails: {type(error).__name__}: {error}"]
    elastify(elastic, args, example_kwargs=kwargs)
    faults = [] if torch.equal(reference, _write(elastic, prompt, cache=True)) else ["the full model writes otherwise"]
    redraw(elastic, 0)
    alike = alike and getattr(model.config, "is_decoder", True)  # BERT looks ahead: a cache changes what it sees
    alike = alike and torch.equal(_write(elastic, prompt, cache=True), _write(elastic, prompt, cache=False))
    where = space(elastic)
    for config in (where.min, *(where.sample(seed) for seed in range(draws))):
        faults += _faults(elastic, config, prompt, alike)
    return faults


def _faults(elastic: Any, config: Any, prompt: Mapping[str, Any], alike: bool) -> list[str]:
    try:
        small = extract(elastic, config)
        with activate(elastic, config):
            ours = _write(elastic, prompt, cache=True)
        theirs = _write(small, prompt, cache=True)
        if not torch.equal(ours, theirs):
            return [f"generate() writes {ours.tolist()} activated, {theirs.tolist()} extracted: {config!r}"]
        if alike and not torch.equal(theirs, _write(small, prompt, cache=False)):
            return [f"generate() writes otherwise without a cache: {config!r}"]
    except (ElastifyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        return [f"generate(): {type(error).__name__}: {error} for {config!r}"]
    return []


def _write(model: Any, prompt: Mapping[str, Any], *, cache: bool) -> torch.Tensor:
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        use_cache=cache,
        max_length=None,
        max_new_tokens=NEW,
        num_beams=1,
        suppress_tokens=_placeholders(model) or None,
    )
    if model.config.is_encoder_decoder and settings.decoder_start_token_id is None:
        settings.decoder_start_token_id = 0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model.generate(**prompt, generation_config=settings)
