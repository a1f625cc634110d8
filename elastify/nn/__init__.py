"""Modules that are elastic in ways of their own: residual layers of parallel branches."""

from elastify.nn._parallel import ParallelResidual, widen

__all__ = ["ParallelResidual", "widen"]
