"""A run of a model, recorded: every operation, the modules around it, and where its integers came from.

`capture` runs the model on fake tensors under a torch-function mode (decision 0001) and gives a graph; `capture_all`
also records training mode and runs with a filled cache where they differ. The model is as it was afterwards, whatever
happens, and other threads are not seen. An `Example` is what forward is called with (`examples`). `paths` reads and
writes what stands at a dotted path of a model; `trees` walks the nested values that go in and out of forward; `quiet`
keeps recorders out of our own work.

README.md in this folder walks through one example.
"""

from elastify._capture.code import Code
from elastify._capture.examples import Example, describe, example_like, prepare_inputs, tensors_by_name
from elastify._capture.fx_checks import check_input, check_way
from elastify._capture.fx_writer import FxWriter
from elastify._capture.kernels import viewed
from elastify._capture.leaks import remembering_methods
from elastify._capture.op_names import op_name
from elastify._capture.paths import attribute_value, get_in, holder, parameter_names, put_in, read, resolve, write
from elastify._capture.quiet import recorders, uncollected, unrecorded
from elastify._capture.session import capture, capture_all, capture_fx
from elastify._capture.sources import source_line
from elastify._capture.stand_ins import generators
from elastify._capture.trees import results
from elastify._capture.wrappers import not_elastic, wrapped, written

__all__ = [
    "Code",
    "Example",
    "FxWriter",
    "attribute_value",
    "capture",
    "capture_all",
    "capture_fx",
    "check_input",
    "check_way",
    "describe",
    "example_like",
    "generators",
    "get_in",
    "holder",
    "not_elastic",
    "op_name",
    "parameter_names",
    "prepare_inputs",
    "put_in",
    "read",
    "recorders",
    "remembering_methods",
    "resolve",
    "results",
    "source_line",
    "tensors_by_name",
    "uncollected",
    "unrecorded",
    "viewed",
    "wrapped",
    "write",
    "written",
]
