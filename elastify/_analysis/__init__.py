"""From the record of a run to layouts: what each dimension of each tensor is made of. No torch here.

`analyse` goes through a graph call by call. Each operation's rule (`rules/`) states facts about its dimensions (same
units, fixed size, product, concatenation) on terms (`terms`), which are unified. Equations between sizes that no term
can express are solved as polynomials. `rules/ops.py` is the table of what operations are, which others ask through
`operation`; `macs` counts the multiplications of a graph in terms of dimensions, `apart` tells whether the entries of
an axis are independent.

README.md in this folder walks through one example.
"""

from elastify._analysis.analyse import Analysis, analyse
from elastify._analysis.apart import kept_apart
from elastify._analysis.macs import MacTerm, made_of, products
from elastify._analysis.rules import Op, names, operation
from elastify._analysis.terms import Term, Terms

__all__ = [
    "Analysis",
    "MacTerm",
    "Op",
    "Term",
    "Terms",
    "analyse",
    "kept_apart",
    "made_of",
    "names",
    "operation",
    "products",
]
