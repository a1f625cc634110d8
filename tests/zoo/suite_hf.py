"""One small model, with random weights, of every transformers model type that has a task head."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from hf_generate import check_generation
from hf_shrink import small_config
from zoo_entry import Entry, Made

TASKS = """
SEQ_TO_SEQ_CAUSAL_LM SPEECH_SEQ_2_SEQ IMAGE_TEXT_TO_TEXT MULTIMODAL_LM CAUSAL_LM MASKED_LM
ZERO_SHOT_IMAGE_CLASSIFICATION IMAGE_CLASSIFICATION VIDEO_CLASSIFICATION CTC OBJECT_DETECTION
ZERO_SHOT_OBJECT_DETECTION UNIVERSAL_SEGMENTATION SEMANTIC_SEGMENTATION DEPTH_ESTIMATION AUDIO_CLASSIFICATION
SEQUENCE_CLASSIFICATION QUESTION_ANSWERING
""".split()
"""What a model type is mostly used for comes first."""


def class_names() -> dict[str, str]:
    """The class with the main task head, by model type."""
    from transformers.models.auto import modeling_auto

    tables = {n: t for n, t in vars(modeling_auto).items() if n.startswith("MODEL_FOR_") and n.endswith("_NAMES")}
    order = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS]
    order += [n for n in tables if n not in order and "BACKBONE" not in n and "TEXT_ENCODING" not in n]
    found: dict[str, str] = {}
    for name in order:
        for kind, entry in tables[name].items():
            entry = entry if isinstance(entry, str) else entry[0]
            found.setdefault(kind, entry)
    return dict(sorted(found.items()))


def tiny(kind: str) -> Made:
    """A small model of a type and inputs that fit."""
    import transformers

    from elastify._adapters import infer_example_inputs

    torch.manual_seed(0)
    model = getattr(transformers, class_names()[kind])(small_config(kind)).eval()
    inputs: Any = infer_example_inputs(model)
    if inputs is None:
        raise ValueError(f"no inputs are known for {type(model).__name__}")
    return model, *inputs


HF = [Entry(f"hf:{kind}", partial(tiny, kind), also=check_generation) for kind in class_names()]
