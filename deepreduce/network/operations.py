"""The table of tensor operations: what each computes, and what it costs in private inference.

The table names ATen operations, the few hundred that execute every PyTorch network. So the module, function, method
and in-place forms of one operation all share one entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor

from deepreduce.cost import layers
from deepreduce.network.meta_run import tensors_in


class Role(Enum):
    """Kind of an operation: how the values of its result depend on those of its tensors."""

    CONVOLUTION = auto()
    MATRIX_PRODUCT = auto()
    BATCH_NORM = auto()
    POSITIONS = auto()
    """Combines or repeats positions, channel by channel: pools, interpolation, padding with values."""
    REDUCTION = auto()
    """Combines the values along dimensions."""
    ELEMENTWISE = auto()
    """Combines values of the same place."""
    SAME = auto()
    """The values as they are."""
    SHUFFLE = auto()
    """The channels in another order."""
    MOVE = auto()
    """All values, in another place or shape; padding with a constant counts as such."""
    PART = auto()
    """Some of the values."""
    SPLIT = auto()
    """Several results, each with some of the values."""
    INDEX = auto()
    """Values that indices choose, or that replace others."""
    FILL = auto()
    """Values that do not depend on the data."""
    OTHER = auto()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The facts of one ATen operation.

    `layer` is the kind (of `deepreduce.cost.layers`) of a layer that it makes up. `reported` is the name under which
    it is reported as a non-linearity; None if it is linear in each of its tensors, and costs no comparison.
    """

    role: Role
    layer: str = layers.OTHER
    reported: str | None = None


def _alike(names: str, role: Role, layer: str = layers.OTHER, *, reported: str | None = None) -> dict[str, Operation]:
    return dict.fromkeys(names.split(), Operation(role=role, layer=layer, reported=reported))


def _non_linear(names: str, role: Role = Role.ELEMENTWISE) -> dict[str, Operation]:
    """Return operations that are reported under their own names."""
    return {name: Operation(role=role, reported=name) for name in names.split()}


def _activations(names: str) -> dict[str, Operation]:
    return {name: Operation(role=Role.ELEMENTWISE, layer=layers.ACTIVATION, reported=name) for name in names.split()}


OPERATIONS: Mapping[str, Operation] = {
    # -- linear in each tensor ------------------------------------------------------------------------------
    **_alike("convolution _convolution convolution_overrideable", Role.CONVOLUTION, layers.CONV),
    **_alike("linear mm addmm mv addmv", Role.MATRIX_PRODUCT, layers.LINEAR),
    **_alike("bmm matmul dot baddbmm addbmm _trilinear", Role.MATRIX_PRODUCT, layers.PRODUCT),
    **_alike(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"
        " _batch_norm_no_update", Role.BATCH_NORM, layers.SCALE,
    ),
    **_alike("add sub rsub neg div lerp masked_fill native_dropout", Role.ELEMENTWISE, layers.ADD),
    **_alike("mul addcmul", Role.ELEMENTWISE, layers.PRODUCT),
    **_alike("sum mean", Role.REDUCTION, layers.AVG_POOL),
    **_alike(
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d",
        Role.POSITIONS, layers.AVG_POOL,
    ),
    **_alike(
        "upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d _upsample_bilinear2d_aa"
        " upsample_bicubic2d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d", Role.POSITIONS,
    ),
    **_alike("alias clone contiguous detach lift_fresh lift_fresh_copy _to_copy", Role.SAME, layers.MOVE),
    **_alike("channel_shuffle native_channel_shuffle", Role.SHUFFLE, layers.MOVE),
    **_alike(
        "as_strided cat constant_pad_nd diagonal expand flip permute pixel_shuffle pixel_unshuffle repeat reshape"
        " _reshape_alias roll squeeze stack t transpose unsqueeze _unsafe_view view", Role.MOVE, layers.MOVE,
    ),
    **_alike("narrow select slice", Role.PART, layers.MOVE),
    **_alike("chunk split split_with_sizes unbind", Role.SPLIT, layers.MOVE),
    **_alike(
        "col2im copy embedding _embedding_bag gather im2col index index_put _index_put_impl index_select scatter"
        " select_scatter slice_scatter tril triu unfold _unsafe_index", Role.INDEX, layers.MOVE,
    ),
    **_alike(
        "empty_like full_like ones_like rand_like randn_like zeros_like new_empty new_empty_strided new_full new_ones"
        " new_zeros fill zero bernoulli normal uniform _local_scalar_dense _assert_async", Role.FILL,
    ),
    # -- activations ----------------------------------------------------------------------------------------
    **_alike("relu", Role.ELEMENTWISE, layers.RELU, reported="relu"),
    **_alike("relu6", Role.ELEMENTWISE, layers.RELU6, reported="relu6"),
    **_alike("hardtanh", Role.ELEMENTWISE, layers.RELU6, reported="hardtanh"),
    **_alike("clamp clamp_min clamp_max", Role.ELEMENTWISE, layers.CLAMP, reported="clamp"),
    **_non_linear("mish prelu rrelu softplus hardshrink threshold glu"),
    **_activations("gelu silu hardswish hardsigmoid sigmoid tanh elu leaky_relu softshrink"),
    **_alike("celu", Role.ELEMENTWISE, layers.ACTIVATION, reported="elu"),
    **_alike("_prelu_kernel", Role.ELEMENTWISE, layers.ACTIVATION, reported="prelu"),
    **_alike("_softmax", Role.OTHER, layers.ACTIVATION, reported="softmax"),
    **_alike("rrelu_with_noise", Role.ELEMENTWISE, reported="rrelu"),
    **_alike("log_sigmoid_forward", Role.ELEMENTWISE, reported="log_sigmoid"),
    **_alike(
        "_safe_softmax _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"
        " _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
        " _scaled_dot_product_fused_attention_overrideable _native_multi_head_attention", Role.OTHER,
        reported="softmax",
    ),
    **_alike("_log_softmax", Role.OTHER, reported="log_softmax"),
    **_alike("_transformer_encoder_layer_fwd", Role.OTHER, reported="transformer_encoder_layer"),
    # -- comparisons ----------------------------------------------------------------------------------------
    **_alike(
        "max_pool2d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d",
        Role.POSITIONS, layers.MAX_POOL, reported="max_pool",
    ),
    **_alike("fractional_max_pool2d", Role.OTHER, layers.MAX_POOL, reported="max_pool"),
    **_alike("max amax", Role.REDUCTION, layers.MAX_POOL, reported="max"),
    **_alike("min amin", Role.REDUCTION, reported="min"),
    **_alike("maximum", Role.ELEMENTWISE, layers.ACTIVATION, reported="max"),
    **_alike("minimum", Role.ELEMENTWISE, layers.ACTIVATION, reported="min"),
    **_alike("gt ge lt le eq ne", Role.ELEMENTWISE, reported="comparison"),
    **_alike("where", Role.ELEMENTWISE, layers.ADD, reported="where"),
    **_activations("abs"),
    **_non_linear("sign round floor ceil"),
    **_non_linear("argmax argmin topk sort median", Role.OTHER),
    # -- other functions of the data ------------------------------------------------------------------------
    **_non_linear("exp log sqrt rsqrt reciprocal erf sin cos"),
    **_alike("pow", Role.ELEMENTWISE, layers.PRODUCT, reported="pow"),
    **_non_linear("var std var_mean prod", Role.REDUCTION),
    **_alike("linalg_vector_norm", Role.REDUCTION, reported="norm"),
    **_non_linear("norm cumsum lstm gru", Role.OTHER),
    **_alike("native_layer_norm", Role.OTHER, reported="layer_norm"),
    **_alike("native_group_norm", Role.OTHER, reported="group_norm"),
    **_alike("_fused_rms_norm", Role.OTHER, reported="rms_norm"),
    **_alike("mkldnn_rnn_layer _thnn_fused_lstm_cell", Role.OTHER, reported="lstm"),
    **_alike("rnn_tanh rnn_relu", Role.OTHER, reported="rnn"),
}  # fmt: skip
"""ATen operation, without the "_" of its in-place form -> its facts."""

ACTIVATION_COSTS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("leaky_relu", "prelu", "abs", "maximum", "minimum"), (1, 1)),
    **dict.fromkeys(("hardsigmoid", "hardswish", "softshrink"), (2, 2)),
    **dict.fromkeys(("sigmoid", "silu", "tanh"), (17, 12)),
    **dict.fromkeys(("gelu", "elu", "selu", "celu"), (10, 8)),
    "softmax": (11, 15),
}
"""Function -> the comparisons of ReLUs that one output costs as much as, and how many of them follow each other.

Measured under Semi2k (SPU 0.9.5, 2026-11-27) by bytes of one output and messages of a layer; docs/private.md.
"""

_FACTORS = {"mul": ({0, 1},), "addcmul": ({1, 2},), "lerp": ({0, 2}, {1, 2})}
"""Element-wise products: the positions of arguments that are multiplied with each other."""


def operations_of(*roles: Role) -> frozenset[str]:
    """Return the names of all operations of these roles."""
    return frozenset(name for name, operation in OPERATIONS.items() if operation.role in roles)


def name_of(func: Any) -> str:
    """Return an ATen operation's name in `OPERATIONS`: that of its overloads, without the "_" of in-place forms."""
    name: str = func.overloadpacket.__name__
    return name if name.startswith("__") else name.removesuffix("_")


def relu_kind(func: Any, args: tuple[Any, ...]) -> str | None:
    """Return "relu" for a call that computes a ReLU, "relu6" for one with any cap, None for any other.

    A clamp at 0 from below, `threshold(x, 0, 0)` and `hardtanh(x, 0, cap)` compute ReLUs too.
    """
    name = name_of(func)
    if name in ("clamp", "clamp_min", "hardtanh"):
        low, high = _bounds(name, args)
        if isinstance(low, Tensor) or low != 0:
            return None
        return "relu" if high is None else "relu6"
    if name == "threshold":
        return "relu" if tuple(args[1:3]) == (0, 0) else None
    return name if name in ("relu", "relu6") else None


def classify(
    func: Any, args: tuple[Any, ...], *, is_activation: Callable[[Tensor], bool] = lambda tensor: True
) -> str | None:
    """Return the non-linearity that a call computes, "relu" and "relu6" as in `relu_kind`; None for a linear call.

    Linear means in the activations, which `is_activation` tells from tensors that do not depend on the image: an
    element-wise product of two activations is a "product", a division by one a "division"; by weights and constants
    both are linear. Matrix products of activations are not reported: their multiply-accumulates are counted. An
    unknown operation counts as a non-linearity: a count of zero needs a reason.
    """
    name, kind = name_of(func), relu_kind(func, args)
    if kind is not None:
        return kind
    if name == "native_batch_norm" or name == "_native_batch_norm_legit":
        training = args[5] if name == "native_batch_norm" else args[-3]
        return "instance_norm" if training is True else None
    if name == "pow" and len(args) > 1 and not isinstance(args[1], Tensor) and args[1] == 1:
        return None
    activations = {i for i, value in enumerate(args) if isinstance(value, Tensor) and is_activation(value)}
    if any(factors <= activations for factors in _FACTORS.get(name, ())):
        return "product"
    if name == "div" and 1 in activations:
        return "division"
    known = OPERATIONS.get(name)
    if (known is not None and known.reported is None) or not tensors_in(args):
        return None
    return name if known is None else known.reported


def cap_of(func: Any, args: tuple[Any, ...]) -> float:
    """Return the upper bound of the output of a call that is classified as "relu6"."""
    return float(_bounds(name_of(func), args)[1])


def _bounds(name: str, args: tuple[Any, ...]) -> tuple[Any, Any]:
    low = args[1] if len(args) > 1 else (-1 if name == "hardtanh" else None)
    high = args[2] if len(args) > 2 else (1 if name == "hardtanh" else None)
    return low, (None if name == "clamp_min" else high)


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    image, weight, transposed = args[0], args[1], bool(args[6])
    # every weight is used once per input position (transposed) or output position
    positions = math.prod(image.shape[2:]) if transposed else math.prod(out.shape[2:])
    return int(out.shape[0] * positions * weight.numel())


def _matmul(args: tuple[Any, ...], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


def _attention(args: tuple[Any, ...], out: Any) -> int:
    query, key, value = args[:3]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


MACS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "convolution": _convolution,
    "mm": _matmul,
    "bmm": _matmul,
    "linear": _matmul,
    "addmm": lambda args, out: _matmul(args[1:], out),
    "baddbmm": lambda args, out: _matmul(args[1:], out),
    "addmv": lambda args, out: int(args[1].numel()),
    "mv": lambda args, out: int(args[0].numel()),
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
"""ATen operation -> function that counts a call's multiply-accumulates from its arguments and first output."""


def mac_count(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return the multiply-accumulates of one executed ATen operation; an element-wise operation has none."""
    counter = MACS.get(func.overloadpacket.__name__)
    if counter is None:
        return 0
    return counter(args, out[0] if isinstance(out, (tuple, list)) else out)


def output_elements(out: Any) -> int:
    """Return the number of elements of an operation's first output."""
    first = out[0] if isinstance(out, (tuple, list)) else out
    return int(first.numel()) if isinstance(first, torch.Tensor) else 0
