"""What a run will cost, told before anything is spent: teacher calls, tokens, money, GPU time and disk."""

from lamer.estimate.calls import Line
from lamer.estimate.estimate import Estimate, estimate, existing
from lamer.estimate.show import show

__all__ = ["Estimate", "Line", "estimate", "existing", "show"]
