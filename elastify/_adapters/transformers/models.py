"""transformers: how a model is built by the name of its type or class, noted and built again, and how it generates.

Names are looked up in the library's tables of automatic classes. A model that writes keeps a cache, and may use parts
for it that a single pass does not: it is also recorded going on with one, and generating where `generate` is its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import nn

from elastify._adapters.build import check_name
from elastify._adapters.library import Inputs, Library, Run
from elastify._adapters.transformers.inputs import example_inputs
from elastify._adapters.transformers.pretrained import guard
from elastify._errors import ElastifyError

_HIDDEN = ("hidden_states", "attentions")
_CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")
_CODE = frozenset(
    "auto_map custom_pipelines trust_remote_code kernel_config use_kernels quantization_config name_or_path "
    "use_pretrained_backbone".split()
)
# What a pretrained checkpoint of a model type is mostly used for comes first.
_TASKS = (
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "CAUSAL_LM",
    "CTC",
    "OBJECT_DETECTION",
    "UNIVERSAL_SEGMENTATION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "IMAGE_TEXT_TO_TEXT",
    "AUDIO_CLASSIFICATION",
)


class Transformers(Library, package="transformers"):
    prefix = "hf"
    auxiliary_outputs = frozenset(
        [*_CACHES, "encoder_last_hidden_state", "cross_attentions", *_HIDDEN]
        + [f"{part}_{name}" for part in ("encoder", "decoder", "vision", "image") for name in _HIDDEN]
    )

    def inputs(self, model: nn.Module) -> Inputs | None:
        return example_inputs(model)

    def run_with_caches(self, model: Any) -> Run | None:
        can = getattr(model, "can_generate", None)
        writes = can is not None and can() and "use_cache" in inspect.signature(model.forward).parameters
        return _run_with_caches if writes else None

    def run_of_its_own(self, model: Any) -> Run | None:
        makers = [cls for cls in type(model).__mro__ if "generate" in vars(cls)]
        able = bool(getattr(model, "can_generate", bool)()) and bool(makers)
        return _generate if able and makers[0].__module__ != "transformers.generation.utils" else None

    def attention_by_hand(self, module: nn.Module) -> Iterable[tuple[Any, str, Any]]:
        """The configuration says it, which modules share."""
        config, name = vars(module).get("config"), "_attn_implementation"
        return [(config, name, "eager")] if getattr(config, name, None) not in (None, "eager") else ()

    def guard(self, model: nn.Module) -> None:
        guard(model)

    def maker(self, name: str) -> Callable[[], nn.Module]:
        """`name` is a model type (`bert`: its main task head) or a class (`BertForSequenceClassification`)."""
        import transformers

        types, tables = _tables()
        if name in types:
            order = (*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in _TASKS), "MODEL_MAPPING_NAMES")
            entry = next((tables[table][name] for table in order if name in tables.get(table, ())), None)
            if entry is None:
                fix = f"name a class, such as {self.prefix}:BertModel"
                raise ElastifyError(f"{self.prefix}:{name} is a configuration without a model", fix=fix)
            name = entry if isinstance(entry, str) else entry[0]
        elif not hasattr(getattr(transformers, name, None), "config_class"):
            check_name(self.prefix, name, {*types, *_classes(tables)})
        kind = getattr(transformers, name)
        return lambda: kind(kind.config_class())

    def notes(self, model: Any) -> dict[str, Any] | None:
        if not hasattr(model, "config"):
            return None
        return {"name": type(model).__name__, "config": _plain(model.config.to_dict())}

    def build_like(self, name: str, notes: Mapping[str, Any]) -> nn.Module | None:
        import transformers
        from huggingface_hub.errors import StrictDataclassError
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        config = notes.get("config")
        known = name in _classes(_tables()[1])
        if not known or not isinstance(config, dict) or config.get("model_type") not in CONFIG_MAPPING:
            return None
        try:
            return getattr(transformers, name)(CONFIG_MAPPING[config["model_type"]].from_dict(_harmless(config)))
        except StrictDataclassError as error:
            raise ValueError(f"the configuration is not valid: {error}") from error


def _harmless(config: Any) -> Any:
    """A configuration of anybody's without what names code, kernels or repositories, in the parts of it too."""
    if isinstance(config, list):
        return [_harmless(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _harmless(value)
        for key, value in config.items()
        if key.lstrip("_") not in _CODE
        and "_implementation" not in key
        and not (key == "backbone" and "/" in str(value))
    }


def _tables() -> tuple[Collection[str], dict[str, dict[str, Any]]]:
    """The library's model types; and its tables from these to names of classes, one a task, by the tables' names."""
    from transformers.models.auto import modeling_auto

    tables = {key: table for key, table in vars(modeling_auto).items() if key.endswith("_MAPPING_NAMES")}
    return tables.pop("CONFIG_MAPPING_NAMES"), tables


def _classes(tables: Mapping[str, Mapping[str, Any]]) -> set[str]:
    entries = (entry for table in tables.values() for entry in table.values())
    return {name for entry in entries for name in ((entry,) if isinstance(entry, str) else entry) if name}


def _plain(value: Any) -> Any:
    """JSON-able part of a configuration."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _run_with_caches(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The inputs with the cache on, then the last token once more with what the cache holds."""
    accepted = inspect.signature(model.forward).parameters
    first = model(*args, **{**kwargs, "use_cache": True})
    held = {name: first[name] for name in _CACHES if name in accepted and name in first}
    tokens = next((name for name in ("decoder_input_ids", "input_ids") if name in kwargs), None)
    if not held or tokens is None:
        return first
    if "encoder_outputs" in accepted and "encoder_last_hidden_state" in first:
        held["encoder_outputs"] = (first["encoder_last_hidden_state"],)
    return first, model(**held, **{tokens: kwargs[tokens][:, -1:]}, use_cache=True)


def _generate(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Two steps of generation from the inputs."""
    prompt = {name: value for name, value in kwargs.items() if name not in ("use_cache", "decoder_input_ids")}
    if model.config.is_encoder_decoder and model.generation_config.decoder_start_token_id is None:
        prompt["decoder_start_token_id"] = 0
    return model.generate(*args, **prompt, max_new_tokens=2, do_sample=False)
