"""Recurrences, convolutions and attention, each with a definition and faster twins. `describe` tells which run here."""

from lmsleep.ops.add_norm import add_norm
from lmsleep.ops.backend import describe, use_backend
from lmsleep.ops.delta_layer import delta_layer, jet_layer
from lmsleep.ops.gated_delta import gated_delta
from lmsleep.ops.short_conv import conv_tail, dynamic_conv, short_conv
from lmsleep.ops.ssd import ssd, ssd_delta
from lmsleep.ops.swiglu import swiglu
from lmsleep.ops.window_attention import window_attention

__all__ = [
    "add_norm",
    "conv_tail",
    "delta_layer",
    "describe",
    "dynamic_conv",
    "gated_delta",
    "jet_layer",
    "short_conv",
    "ssd",
    "ssd_delta",
    "swiglu",
    "use_backend",
    "window_attention",
]
