"""Compile every kernel for GPUs that need not be there, and print what failed as JSON.

Usage: ``python compile_cases.py cuda:80``. A process of its own, because TRITON_INTERPRET
must not be set when Triton is imported. A new operator is one more function in ``OPERATORS``, which
yields its kernels as it launches them for tensors of a dtype.
"""

import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import gatedvision_kernels

DTYPES = ("fp32", "bf16", "fp16")
OPERANDS = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}


@dataclass
class Case:
    """A kernel with the types of its arguments.

    Those not named are pointers to the dtype if they end in ``_ptr``, and int32 otherwise.
    """

    label: str
    kernel: Any
    dtype: str
    types: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)  # None for a pointer that is absent
    num_warps: int = 4

    def signature(self) -> dict[str, str]:
        return {name: self._type(name) for name in self.kernel.arg_names}

    def _type(self, name: str) -> str:
        if name in self.constants:
            return "constexpr"
        if name in self.types:
            return self.types[name]
        return f"*{self.dtype}" if name.endswith("_ptr") else "i32"


def module(name: str) -> Any:
    # A public operator hides the module of its name from an import statement.
    return import_module(f"gatedvision_kernels.{name}")


def rms_norm_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    forward, backward = module("rms_norm")._forward_kernel, module("rms_norm")._backward_kernel
    types = {"weight_ptr": "*fp32", "grad_weight_ptr": "*fp32", "eps": "fp32"}
    tile = {"WIDTH": 384, "BLOCK_ROWS": 8, "BLOCK_WIDTH": 512}
    yield Case("rms_norm forward", forward, dtype, types, tile | {"residual_ptr": None, "total_ptr": None})
    yield Case("add_rms_norm forward", forward, dtype, types, tile)
    yield Case("rms_norm backward", backward, dtype, types, tile | {"grad_total_ptr": None})
    yield Case("add_rms_norm backward", backward, dtype, types, tile)


def layer_norm_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    forward, backward = module("layer_norm")._forward_kernel, module("layer_norm")._backward_kernel
    vectors = {"scale_ptr": "*fp32", "weight_ptr": "*fp32", "bias_ptr": "*fp32", "grad_vectors_ptr": "*fp32"}
    # The stream is wider than the branches where it is float32 under autocast.
    types = vectors | {"eps": "fp32", "residual_ptr": "*fp32", "total_ptr": "*fp32", "grad_residual_ptr": "*fp32"}
    tile = {"WIDTH": 480, "BLOCK_ROWS": 4, "BLOCK_WIDTH": 512}
    alone = {"residual_ptr": None, "scale_ptr": None, "total_ptr": None}
    yield Case("layer_norm forward", forward, dtype, types, tile | alone)
    yield Case("add_layer_norm forward", forward, dtype, types, tile)
    alone = {"x_ptr": None, "scale_ptr": None, "grad_total_ptr": None, "grad_x_ptr": None}
    yield Case("layer_norm backward", backward, dtype, types, tile | alone | {"VECTORS": 2})
    yield Case("add_layer_norm backward", backward, dtype, types, tile | {"VECTORS": 3})


def bias_gelu_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    forward, backward = module("bias_gelu")._forward_kernel, module("bias_gelu")._backward_kernel
    types = {"bias_ptr": "*fp32", "sums_ptr": "*fp32"}
    constants = {"WIDTH": 1024, "BLOCK_ROWS": 8, "BLOCK_WIDTH": 256, "TANH": False}
    yield Case("bias_gelu forward", forward, dtype, types, constants)
    yield Case("bias_gelu backward, output once more", backward, dtype, types, constants)
    constants = constants | {"TANH": True}
    yield Case("bias_gelu forward, tanh", forward, dtype, types, constants)
    yield Case("bias_gelu backward, tanh", backward, dtype, types, constants | {"y_ptr": None})


def recursive_gate_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    types = {"scale": "fp32", "sums_ptr": "*fp32"}
    constants = {"WIDTH": 64, "BLOCK_ROWS": 32, "BLOCK_WIDTH": 64}
    yield Case("recursive_gate forward", module("recursive_gate")._forward_kernel, dtype, types, constants)
    backward = module("recursive_gate")._backward_kernel
    yield Case("recursive_gate backward, first step", backward, dtype, types, constants | {"sums_ptr": None})
    yield Case("recursive_gate backward, last step", backward, dtype, types, constants | {"y_ptr": None})


def gated_norm_mix_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    types = {"global_weight_ptr": "*fp32", "local_weight_ptr": "*fp32", "grad_weights_ptr": "*fp32", "eps": "fp32"}
    constants = {"SILU": True, "WIDTH": 64, "BLOCK_ROWS": 32, "BLOCK_WIDTH": 64}
    yield Case("gated_norm_mix forward", module("gated_norm_mix")._forward_kernel, dtype, types, constants)
    yield Case("gated_norm_mix backward", module("gated_norm_mix")._backward_kernel, dtype, types, constants)


def swiglu_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    constants = {"WIDTH": 1024, "BLOCK_ROWS": 16, "BLOCK_WIDTH": 256}
    yield Case("swiglu forward", module("swiglu")._forward_kernel, dtype, {}, constants)
    yield Case("swiglu backward", module("swiglu")._backward_kernel, dtype, {}, constants)


def swiglu_mlp_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    constants = {"DIM": 192, "HIDDEN": 512, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 32, "BLOCK_DEPTH": 32}
    constants["OPERAND"] = OPERANDS[dtype]
    yield Case("swiglu_mlp forward", module("swiglu_mlp")._forward_kernel, dtype, {}, constants)
    yield Case("swiglu_mlp backward", module("swiglu_mlp")._backward_kernel, dtype, {}, constants | {"OUT": 192})


def gated_activation_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    forward, backward = (getattr(module("gated_activation"), f"_{way}_kernel") for way in ("forward", "backward"))
    types = {"bias_ptr": "*fp32", "sums_ptr": "*fp32"}
    last = {"ACTIVATION": 0, "DIM": 24, "BLOCK_PIXELS": 64, "BLOCK_CHANNELS": 32}
    yield Case("gated_activation forward", forward, dtype, types, last)
    yield Case("gated_activation backward", backward, dtype, types, last)
    first = {"ACTIVATION": 1, "DIM": 24, "BLOCK_PIXELS": 1024, "BLOCK_CHANNELS": 1, "bias_ptr": None}
    yield Case("gated_activation forward, channels first", forward, dtype, types, first)
    yield Case("gated_activation backward, channels first", backward, dtype, types, first | {"sums_ptr": None})


def gated_product_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    constants = {"DOUBLE": True, "WIDTH": 96, "BLOCK_ROWS": 4, "BLOCK_WIDTH": 128}
    yield Case("gated_product forward", module("gated_product")._forward_kernel, dtype, {}, constants)
    yield Case("gated_product backward", module("gated_product")._backward_kernel, dtype, {}, constants)


def channel_aggregation_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    sums = {"grad_vectors_ptr": "*fp32", "grad_bias_ptr": "*fp32"}
    types = {"common_weight_ptr": "*fp32", "common_bias_ptr": "*fp32", "scale_ptr": "*fp32"} | sums
    constants = {"WIDTH": 192, "BLOCK_ROWS": 2, "BLOCK_WIDTH": 256}
    forward, backward = (getattr(module("channel_aggregation"), f"_{way}_kernel") for way in ("forward", "backward"))
    yield Case("channel_aggregation forward", forward, dtype, types, constants)
    yield Case("channel_aggregation backward", backward, dtype, types, constants)


def spatial_decomposition_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    types = {"scale_ptr": "*fp32", "sums_ptr": "*fp32", "grad_sums_ptr": "*fp32"}
    constants = {"SHARES": 8, "WIDTH": 32, "BLOCK_ROWS": 16, "BLOCK_WIDTH": 32}
    for name in ("sum", "forward", "backward_sum", "backward"):
        kernel = getattr(module("spatial_decomposition"), f"_{name}_kernel")
        yield Case(f"spatial_decomposition {name}", kernel, dtype, types, constants)


def depthwise_conv2d_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    strips = module("depthwise_conv2d._strips")
    types = {"weight_ptr": "*fp32", "bias_ptr": "*fp32", "sums_ptr": "*fp32"}

    def constants_of(kernel_size: int, dilation: int) -> dict[str, Any]:
        tile = strips.tile_of(kernel_size, dilation, height=28, width=28, channels=224)
        return tile | {"L": strips.lines_of(tile["BLOCK"], num_warps=4)}

    # Each pixel of a strip and each tap is code of its own: the widest kernels take long.
    forward = module("depthwise_conv2d.convolve")._convolve_kernel
    constants = constants_of(7, 1) if dtype == "bf16" else constants_of(3, 3)
    yield Case("depthwise_conv2d forward", forward, dtype, types, constants | {"PIXEL": 224, "TURN": False})
    if dtype != "bf16":
        # What maps of many sizes share.
        constants |= strips.tile_of(3, 3, height=28, width=40, channels=224) | {"PIXEL": 224, "TURN": True}
        yield Case("depthwise_conv2d gradient of any map", forward, dtype, types, constants | {"bias_ptr": None})
    backward = module("depthwise_conv2d.weight_gradient")._weight_gradient_kernel
    constants = constants_of(5, 1) if dtype == "bf16" else constants_of(3, 3)
    constants |= {"X_PIXEL": 224, "GRAD_PIXEL": 224, "ROWS": 2}
    yield Case("depthwise_conv2d gradient of the weight", backward, dtype, types, constants)


def filter_spectrum_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    if dtype == "fp32":
        return  # the reference's
    operator, types = module("filter_spectrum"), {"weight_ptr": "*fp32", "sums_ptr": "*fp32"}
    # The maps of HorNet, and the least.
    tile = {name: size for name, size in operator.TILE.items() if name.startswith("BLOCK")}
    for height, width, channels in ((14, 14, 240), (7, 7, 496), (1, 1, 3)):
        constants = operator.size_of(height, width) | tile | {"CHANNELS": channels, "WIDEN": False}
        for which in ("forward", "backward"):
            kernel = getattr(operator, f"_{which}_kernel")
            label = f"filter_spectrum {which}, {height} x {width}"
            yield Case(label, kernel, dtype, types, dict(constants), operator.TILE["num_warps"])
    constants = {"TURN": 6.28, "HEIGHT": 14, "WIDTH": 14, "BLOCK_PIXELS": 256, "BLOCK": operator.TABLE_BLOCK}
    yield Case("filter_spectrum table", operator._table_kernel, dtype, {}, constants)


def column_sum_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    constants = {"WIDTH": 64, "BLOCK_ROWS": 8, "BLOCK_WIDTH": 64}
    yield Case("column sum", module("_column_sum")._column_sum_kernel, dtype, {"sums_ptr": "*fp32"}, constants)


def slot_rows_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    types = {"choice_ptr": "*i64", "slot_ptr": "*i64", "gates_ptr": "*fp32"}
    constants = {"WIDTH": 192, "BLOCK_ROWS": 8, "BLOCK_WIDTH": 256}
    by_slot, by_token, by_choice = (
        getattr(module("_slot_rows"), f"_by_{x}_kernel") for x in ("slot", "token", "choice")
    )
    yield Case("moe_dispatch forward", by_slot, dtype, types, constants | {"gates_ptr": None})
    yield Case("moe_dispatch backward", by_token, dtype, types, constants | {"gates_ptr": None})
    narrow = constants | {"gates_ptr": None, "num_choices": 1}
    yield Case("gather_tokens and scatter_tokens forward", by_slot, dtype, types, narrow)
    yield Case("gather_tokens backward", by_token, dtype, types, narrow)
    yield Case("moe_combine forward", by_token, dtype, types, constants)
    yield Case("moe_combine gradient of the buffers", by_slot, dtype, types, constants)
    yield Case("moe_combine gradient of the gates", by_choice, dtype, types | {"y_ptr": "*fp32"}, constants)


def key_gains_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    types = dict.fromkeys(("log_sum_ptr", "dot_ptr", "gain_ptr"), "*fp32") | {"scale": "fp32"}
    for width in (64, 128):
        tile = module("key_gains")._tile(width, 4 if dtype == "fp32" else 2)
        constants = {"WIDTH": width, "OPERAND": OPERANDS[dtype], **tile}
        num_warps = constants.pop("num_warps")
        constants.pop("num_stages")
        for name in ("rows", "keys"):
            kernel = getattr(module("key_gains"), f"_{name}_kernel")
            yield Case(f"key_gains {name}, {width} wide", kernel, dtype, types, constants, num_warps)


def top_k_gates_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    types = {"gates_ptr": "*fp32", "grad_gates_ptr": "*fp32", "experts_ptr": "*i64"}
    forward, backward = (getattr(module("top_k_gates"), f"_{way}_kernel") for way in ("forward", "backward"))
    for width in (1, 8, 48):
        constants = {"WIDTH": width, **module("_rows").tile_of(width, module("top_k_gates").TILE_ELEMENTS)}
        num_warps = constants.pop("num_warps")
        yield Case(f"top_k_gates forward, {width} experts", forward, dtype, types, constants, num_warps)
        yield Case(f"top_k_gates backward, {width} experts", backward, dtype, types, constants, num_warps)


def moe_slots_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    kernel, tile = module("moe_slots")._slots_kernel, module("moe_slots").TILE
    types = {"slot_ptr": "*i64", "choice_ptr": "*i64", "order_ptr": "*i64"}
    # Whatever the gates are: once is enough.
    for integer in ("i32", "i64") if dtype == "fp32" else ():
        kind, constants = types | {"experts_ptr": f"*{integer}"}, {"BLOCK": tile["BLOCK"]}
        yield Case(f"moe_slots by priority, {integer}", kernel, dtype, kind, constants, tile["num_warps"])
        constants = constants | {"order_ptr": None}
        yield Case(f"moe_slots in order, {integer}", kernel, dtype, kind, constants, tile["num_warps"])
        # Triton makes constants of numbers that are 1, as of one choice and one slot of each group.
        constants = constants | {"num_choices": 1, "capacity": 1}
        yield Case(f"moe_slots, one of each, {integer}", kernel, dtype, kind, constants, tile["num_warps"])


def wide_linear_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    tile = {"BLOCK_ROWS": module("wide_linear").BLOCK_ROWS, "BLOCK_WIDTH": 32 if dtype == "fp32" else 128}
    for block_out in (16, 64):
        constants = tile | {"WIDTH": 768, "BLOCK_OUT": block_out, "WIDEN": False}
        label = f"wide_linear, {block_out} outputs"
        yield Case(label, module("wide_linear")._forward_kernel, dtype, {"y_ptr": "*fp32"}, constants)


def additive_gate_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    kernel, tile_of = module("additive_gate")._forward_kernel, module("additive_gate").tile_of
    # Parameters folded with norms are float32.
    types = {f"{name}_ptr": "*fp32" for name in ("bias", "psi", "psi_bias")}
    # Triton makes constants of strides that are 1.
    last = dict.fromkeys(("x_channel_stride", "gating_channel_stride", "y_channel_stride"), 1)
    first = dict.fromkeys(("x_position_stride", "gating_position_stride", "y_position_stride"), 1)
    for (dim, hidden), strides in (((16, 8), last), ((512, 256), last), ((20, 10), first)):
        constants = {"DIM": dim, "GATING_DIM": dim, "HIDDEN": hidden, "WIDEN": False} | strides
        constants |= tile_of(dim, dim, hidden, dtype == "fp32")
        num_warps = constants.pop("num_warps")
        yield Case(f"additive_gate, {dim} channels", kernel, dtype, types, constants, num_warps)


def bidirectional_gla_cases(dtype: str, target: GPUTarget) -> Iterator[Case]:
    forward = module("bidirectional_gla.forward")._forward_kernel
    query = module("bidirectional_gla.backward_query")._query_kernel
    key = module("bidirectional_gla.backward_key")._key_kernel
    states = module("bidirectional_gla.states")
    operand = tl.bfloat16 if dtype == "bf16" else tl.float32
    precision = "ieee" if dtype == "bf16" or target.backend == "hip" else {"fp32": "tf32x3", "fp16": "tf32"}[dtype]
    types = {"scale": "fp32", "deep_ptr": "*i32"}
    carried = "*bf16" if dtype == "bf16" else "*fp32"
    types |= {"log_ptr": "*fp32"} | {f"{name}_ptr": carried for name in ("sum", "border", "adjoint")}
    types |= {f"change_{direction}_ptr": "*fp32" for direction in ("forward", "backward")}
    # The widths of ViG in the dtype it trains in; elsewhere the least ones, as wide ones take long.
    wide = {"K": 32, "V": 64} if dtype == "bf16" else {"K": 16, "V": 32}
    flush = {"FLUSH": target.backend == "cuda"}
    shared = wide | flush | {"C": 32, "OPERAND": operand, "PRECISION": precision, "GATE": operand}
    shared |= {"GATE_PRECISION": precision}
    constants = shared | {"BLOCK_V": wide["V"], "ADJOINT": True}
    yield Case("bidirectional_gla sums", states._sums_kernel, dtype, types, constants, num_warps=1)
    constants = wide | flush | {"BLOCK_V": 32, "BLOCK_S": 16}
    yield Case("bidirectional_gla scan", states._scan_kernel, dtype, types, constants, num_warps=4)
    shared |= {"LEVELS": 5, "HAS_BORDERS": True}
    constants = shared | {"BLOCK_V": wide["V"]}
    yield Case("bidirectional_gla forward", forward, dtype, types, constants, num_warps=4)
    yield Case("bidirectional_gla backward, queries", query, dtype, types, dict(shared), num_warps=4)
    yield Case("bidirectional_gla backward, keys", key, dtype, types, dict(shared), num_warps=4)


OPERATORS: tuple[Callable[[str, GPUTarget], Iterator[Case]], ...] = (
    rms_norm_cases,
    layer_norm_cases,
    bias_gelu_cases,
    recursive_gate_cases,
    gated_norm_mix_cases,
    swiglu_cases,
    swiglu_mlp_cases,
    gated_activation_cases,
    gated_product_cases,
    channel_aggregation_cases,
    spatial_decomposition_cases,
    depthwise_conv2d_cases,
    filter_spectrum_cases,
    column_sum_cases,
    slot_rows_cases,
    top_k_gates_cases,
    moe_slots_cases,
    key_gains_cases,
    wide_linear_cases,
    additive_gate_cases,
    bidirectional_gla_cases,
)


def parse_target(text: str) -> GPUTarget:
    backend, arch = text.split(":")
    return GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)


def as_called_by_inductor(case: Case) -> Case | None:
    """Return the case with its numbers in double precision, as torch.compile passes them; None without numbers."""
    numbers = {name: "fp64" for name, kind in case.types.items() if kind == "fp32"}
    if case.dtype != "bf16" or not numbers:
        return None
    return replace(case, label=f"{case.label}, double", types=case.types | numbers)


def compile_all(target: GPUTarget) -> dict[str, str]:
    """Return what each case came to: the kind of binary, or the error."""
    results = {}
    cases = [case for cases in OPERATORS for dtype in DTYPES for case in cases(dtype, target)]
    for case in [*cases, *filter(None, map(as_called_by_inductor, cases))]:
        source = ASTSource(fn=case.kernel, signature=case.signature(), constexprs=case.constants)
        try:
            binary = triton.compile(source, target=target, options={"num_warps": case.num_warps})
            outcome = next(kind for kind in ("cubin", "hsaco") if kind in binary.asm)
        except Exception as error:  # whatever the compiler raises is the result
            outcome = f"{type(error).__name__}: {error}"
        results[f"{case.label}, {case.dtype}"] = outcome
    return results


def kernels_without_case() -> list[str]:
    """Name the kernels of the package, by their suffix, that no operator above compiles."""
    target = parse_target("cuda:80")
    compiled = {case.kernel for cases in OPERATORS for dtype in DTYPES for case in cases(dtype, target)}
    modules = [
        import_module(m.name) for m in pkgutil.walk_packages(gatedvision_kernels.__path__, "gatedvision_kernels.")
    ]
    kernels = {f"{m.__name__}.{n}": k for m in modules for n, k in vars(m).items() if n.endswith("_kernel")}
    return [name for name, kernel in kernels.items() if kernel not in compiled]


if __name__ == "__main__":
    outcomes = compile_all(parse_target(sys.argv[1]))
    print(json.dumps({"outcomes": outcomes, "kernels without case": kernels_without_case()}))
