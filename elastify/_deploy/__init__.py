"""What leaves the elastic model: plain submodels, copies, and files.

`extract` cuts one subnet out as a model of the original class on memory of its own, `deep_copy` copies models without
their recorders, `save` and `load` keep an extracted model as safetensors and JSON, checked before anything is
believed.
"""

from elastify._deploy.deep_copy import copied
from elastify._deploy.extract import all_tensors, enlarged, materialise, own
from elastify._deploy.save import load, save

__all__ = [
    "all_tensors",
    "copied",
    "enlarged",
    "load",
    "materialise",
    "own",
    "save",
]
