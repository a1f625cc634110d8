"""All networks of torchvision but the quantised ones, with small inputs.

Detectors are checked twice, their backbones with the feature pyramids by themselves and the whole with a list of
pictures, which picks boxes by their scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import nn
from torchvision import models
from torchvision.models.video import mvit
from zoo_entry import Entry, Made

# Sides of pictures where 64 pixels are not enough, by the beginning of a name.
_SIZES = {"inception": 299, "maxvit": 224, "vit_": 32, "vit_h_14": 28, "ssd300": 300}
_CLIPS = {"s3d": (16, 224)}


def _last(table: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for start, value in reversed(table.items()) if name.startswith(start)), default)


def picture(name: str) -> Made:
    """A network of pictures."""
    torch.manual_seed(0)
    size = _last(_SIZES, name, 64)
    build = {"image_size": size} if name.startswith("vit_") else {}
    if name.startswith(("googlenet", "inception")):
        build["init_weights"] = False
    model = models.get_model(name, weights=None, **build)
    return model.eval(), (torch.randn(2, 3, size, size),), {}


def segmentation(name: str) -> Made:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None)
    return model.eval(), (torch.randn(2, 3, 64, 64),), {}


def clip(name: str) -> Made:
    torch.manual_seed(0)
    frames, size = _last(_CLIPS, name, (8, 64))
    plain = mvit.MViT  # its builders insist on 224 pixels

    def small(**build: Any) -> nn.Module:
        return plain(**{**build, "spatial_size": (size, size), "temporal_size": frames})

    with mock.patch.object(mvit, "MViT", small):
        model = models.get_model(name, weights=None)
    return model.eval(), (torch.randn(2, 3, frames, size, size),), {}


def flow(name: str) -> Made:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None)
    pictures = (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128))
    return model.eval(), pictures, {"num_flow_updates": 3}


def _detector(name: str) -> nn.Module:
    """A detector of 5 classes, for pictures of 64 pixels where its builder allows that."""
    torch.manual_seed(0)
    size = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 96}
    return models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **size).eval()


def backbone(name: str) -> Made:
    model, size = _detector(name).backbone, _last(_SIZES, name, 64)
    assert isinstance(model, nn.Module)
    return model.eval(), (torch.randn(2, 3, size, size),), {}


def detector(name: str) -> Made:
    """A detector and a list of two pictures of different sizes."""
    return _detector(name), ([torch.rand(3, 64, 80), torch.rand(3, 72, 64)],), {}


def _suite() -> list[Entry]:
    families = (
        (picture, models.list_models(module=models)),
        (segmentation, models.list_models(module=models.segmentation)),
        (clip, models.list_models(module=models.video)),
        (flow, models.list_models(module=models.optical_flow)),
    )
    entries = [Entry(f"torchvision:{name}", partial(make, name)) for make, names in families for name in names]
    detectors = models.list_models(module=models.detection)
    entries += [Entry(f"torchvision:{name}.backbone", partial(backbone, name)) for name in detectors]
    # of those that work on the boxes they found, the number of boxes, and so the cost, is another in each subnet
    costs = {name: {"costs": 0} if "rcnn" in name else {} for name in detectors}
    entries += [Entry(f"torchvision:{name}", partial(detector, name), options=costs[name]) for name in detectors]
    return entries


TORCHVISION = _suite()
