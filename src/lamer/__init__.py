"""lamer: find what an open-weight language model does not know, without labels, and repair it."""

from __future__ import annotations

__version__ = "0.1.0"
