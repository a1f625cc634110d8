"""The one error class of elastify.

Deep code raises short facts; the public boundary adds the context once. A message says what went wrong,
where, why, and what to do about it.
"""

from __future__ import annotations


class ElastifyError(Exception):
    """Anything elastify refuses to do.

    >>> print(ElastifyError("no budget", where="search", why="nothing was given", fix="pass budget_macs=..."))
    no budget
      where: search
      why:   nothing was given
      fix:   pass budget_macs=...
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where: ", self.where), ("why:   ", self.why), ("fix:   ", self.fix)):
            if text:
                lines.append(f"  {label}{text}")
        return "\n".join(lines)
