"""Nothing is offered that was not proven on the model itself.

`units`: permuting the units of an axis in every tensor that it is said to run through must leave the function
unchanged. `sizes`: a record of the smaller model must say what the plan says. What fails is taken out of the plan and
reported (`demote`), and the proofs run again on what is left. `batch` tells which dimensions of the inputs count
samples, by runs in which one sample is another (`independence`). `measured` lets numbers that forward never reads
follow what other methods give; `outputs` is what a model hands out.
"""

from elastify._proofs.batch import Batch, find_batch
from elastify._proofs.demote import prove_sizes, prove_units
from elastify._proofs.measured import follow_measured
from elastify._proofs.outputs import Outputs
from elastify._proofs.sizes import compare
from elastify._proofs.units import UNPROVEN, failing_axes, quiet, redraw, seeded
from elastify._proofs.unseen import list_unseen

__all__ = [
    "UNPROVEN",
    "Batch",
    "Outputs",
    "compare",
    "failing_axes",
    "find_batch",
    "follow_measured",
    "list_unseen",
    "prove_sizes",
    "prove_units",
    "quiet",
    "redraw",
    "seeded",
]
