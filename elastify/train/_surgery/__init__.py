"""Changes of the weights before or after training: sorting units, aligning and fusing models, growing, stitching,
factorizing, and measuring statistics again. Each is a function of its own that works on an elastic or a plain model.
"""

from elastify.train._surgery.align import align, fuse
from elastify.train._surgery.factorize import factorize
from elastify.train._surgery.grow import grow
from elastify.train._surgery.norms import replace_norms
from elastify.train._surgery.recalibrate import recalibrate
from elastify.train._surgery.sort import owners, permute_units, sort_channels
from elastify.train._surgery.stitch import stitch

__all__ = [
    "align",
    "factorize",
    "fuse",
    "grow",
    "owners",
    "permute_units",
    "recalibrate",
    "replace_norms",
    "sort_channels",
    "stitch",
]
