"""The two outputs that the benchmark measures, by the names that settings and files use.

They name the heads of a network, the ground truths of a dataset, and the kinds of metrics.
"""

from typing import Literal, get_args

Head = Literal["depth", "all_in_focus"]
HEADS: tuple[Head, ...] = get_args(Head)
DEPTH, ALL_IN_FOCUS = HEADS
