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
from elastify._proofs.units import redraw

NEW = 6
PROMPT = 8


def writes(model: nn.Module) -> bool:
    """Whether the model can generate."""
    return bool(getattr(model, "can_generate", bool)()) and hasattr(model, "generate")


def _placeholders(model: Any) -> list[int]:
    """Tokens that stand for parts of pictures and sounds: not to be written, nor cut off."""
    names = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id", "audio_bos_token_id")
    return [n for n in (getattr(model.config, name, None) for name in names) if isinstance(n, int)]


def check_generation(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], draws: int = 2) -> list[str]:
    """What is wrong with generation, for the smallest and some random configurations; the model is not changed."""
    if not writes(model):
        return []
    prompt = _prompt(model, kwargs)
    elastic: Any = copy.deepcopy(model).eval()
    try:
        reference = _write(elastic, prompt, cache=True)
        alike = _alike(elastic, prompt, reference)
    except Exception as error:  # noqa: BLE001 - the original cannot do it: nothing of ours is tested
        return [f"generate() of the original fails: {type(error).__name__}: {error}"]
    elastify(elastic, args, example_kwargs=kwargs)
    faults = [] if _equal(reference, _write(elastic, prompt, cache=True)) else ["the full model writes otherwise"]
    redraw(elastic, 0)
    alike = alike and getattr(model.config, "is_decoder", True)  # BERT looks ahead: a cache changes what it sees
    alike = alike and _equal(_write(elastic, prompt, cache=True), _write(elastic, prompt, cache=False))
    where = space(elastic)
    for config in (where.min, *(where.sample(seed) for seed in range(draws))):
        faults += _faults(elastic, config, prompt, alike)
    return faults


def _plain_cannot(elastic: Any, config: Any, prompt: Mapping[str, Any], error: Exception) -> bool:
    """Whether a model that the library makes of the subnet's configuration ends in the very same error."""
    small = extract(elastic, config)
    try:
        _write(type(small)(copy.deepcopy(small.config)).eval(), prompt, cache=True)
    except type(error) as theirs:
        return str(theirs) == str(error)
    return False


def _prompt(model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with fewer tokens, where none of these stands for something else, and with what is told of each."""
    prompt = {k: v for k, v in kwargs.items() if k not in ("use_cache", "decoder_input_ids")}
    ids = prompt.get("input_ids")
    if ids is None or set(_placeholders(model)) & set(ids.flatten().tolist()):
        return prompt
    told = ("input_ids", "bbox", "attention_mask", "image_embeds_position_mask")
    return {k: v[:, :PROMPT] if k in told and v.shape[1] == ids.shape[1] else v for k, v in prompt.items()}


def _alike(model: Any, prompt: Mapping[str, Any], reference: Any) -> bool:
    """Whether a model writes the same without a cache; some cannot do without."""
    try:
        return _equal(reference, _write(model, prompt, cache=False))
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return False


def _faults(elastic: Any, config: Any, prompt: Mapping[str, Any], alike: bool) -> list[str]:
    try:
        small = extract(elastic, config)
        with activate(elastic, config):
            ours = _write(elastic, prompt, cache=True)
        theirs = _write(small, prompt, cache=True)
        if not _equal(ours, theirs):
            return [f"generate() writes {_shown(ours)} activated, {_shown(theirs)} extracted: {config!r}"]
        if alike and not _equal(theirs, _write(small, prompt, cache=False)):
            return [f"generate() writes otherwise without a cache: {config!r}"]
    except (ElastifyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        if not _plain_cannot(elastic, config, prompt, error):
            return [f"generate(): {type(error).__name__}: {error} for {config!r}"]
    return []


def _equal(a: Any, b: Any) -> bool:
    """The same tokens; of sounds, which some models write, the same up to rounding."""
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5) if a.is_floating_point() else torch.equal(a, b)


def _shown(written: Any) -> Any:
    return written.tolist() if isinstance(written, torch.Tensor) else [_shown(item) for item in written]


def _write(model: Any, prompt: Mapping[str, Any], *, cache: bool) -> Any:
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        use_cache=cache,
        max_length=None,
        max_new_tokens=NEW,
        num_beams=1,
        suppress_tokens=None if hasattr(model.config, "num_codebooks") else _placeholders(model) or None,
    )
    if model.config.is_encoder_decoder and settings.decoder_start_token_id is None:
        settings.decoder_start_token_id = 0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        written = model.generate(**prompt, generation_config=settings)
    return getattr(written, "sequences", written)
