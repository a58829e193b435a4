"""What the quantizing methods share: which layers they treat, how norms are folded, how layers take others' places."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Notes
from compression_gate.methods.batchnorm_folding import EXAMPLES, NORMS, fold, pairs
from compression_gate.methods.options import inside, not_one_of, refuse
from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.opened import open_attention, own_problem, with_projections
from compression_gate.modules.quantized import LAYER_TYPES, quantized_type_of
from compression_gate.modules.quantized_layer import QuantizedLayer, StaticInput
from compression_gate.modules.quantized_recurrent import QuantizedRecurrent
from compression_gate.modules.quantized_weights import Fit, Scheme, quantized_weight
from compression_gate.modules.surgery import ties
from compression_gate.tasks.calling import call

FUSED_NORMS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
MOST_CHANGE = 1e-4  # of the largest output: the rounding of some hundred folds is less, that of a wrong one much more
NESTED = (
    "nn.TransformerEncoder reads these weights past the layers where a mask makes its tensors nested: "
    "build it with enable_nested_tensor=False"
)


def treatable(
    model: nn.Module, context: Context, *, inputs: Iterable[str], ignore: tuple[str, ...] = ()
) -> dict[str, nn.Module]:
    """Layers that can become integer layers, by name; the others with weights go to the notes.

    Args:
        inputs: kinds of inputs, one of which the integer layer must know: static, dynamic, float.
        ignore: names of modules to leave as they are, with everything inside them.

    Raises:
        ParamsError: a name in ``ignore`` is no module's.
    """
    known = [name for name, _ in model.named_modules()]
    refuse(*(not_one_of("ignore", name, known) for name in ignore))
    layers: dict[str, nn.Module] = {}
    skipped: list[str] = []
    kinds = set(inputs)
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in skipped):
            continue
        if name in ignore:
            skipped.append(f"{name}." if name else "")
            context.notes.uncovered[name] = "ignored"
        elif isinstance(module, QuantizedLayer):
            context.notes.uncovered[name] = "holds integers already"
        elif isinstance(module, nn.MultiheadAttention):
            skipped.append(f"{name}." if name else "")
            context.notes.uncovered[name] = f"{type(module).__name__} reads its weights directly: left in float"
        elif kinds != {"float"} and reads_past_layers(module):
            skipped.append(f"{name}." if name else "")
            context.notes.uncovered[name] = NESTED
        elif (reason := why_not(module, kinds)) is not None:
            context.notes.uncovered.setdefault(name, reason)  # of a norm, why it was not folded
        elif quantized_type_of(module):
            layers[name] = module
    leave_half_shared(model, layers, context.notes)
    return layers


def leave_half_shared(model: nn.Module, layers: dict[str, nn.Module], notes: Notes) -> None:
    """Take layers out whose weight stays as a float for another, and remark on those that no longer share theirs.

    Integers of one layer's own beside the float weight that the other still has would make the model larger.
    """
    groups = sharers(model)
    while half := next((group for group in groups if 0 < len(layers.keys() & set(group)) < len(group)), None):
        other = next(name for name in half if name not in layers)
        because = f" ({notes.uncovered[other]})" if other in notes.uncovered else ""
        for name in half:
            if layers.pop(name, None) is not None:
                notes.uncovered[name] = f"shares its weight with {other}, which stays in float here{because}"
    notes.remarks.extend(
        f"{' and '.join(group)} shared a weight: each has integers of its own now"
        for group in groups
        if layers.keys() >= set(group)
    )


def sharers(model: nn.Module) -> list[tuple[str, ...]]:
    """Names of different modules that have one and the same weight, by weight; each module by its first name."""
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[tuple[str, ...], None] = {}
    for group in ties(model):
        holders = [name.rpartition(".")[0] for name in group if "bias" not in name.rpartition(".")[2]]
        found[tuple(dict.fromkeys(names[id(model.get_submodule(holder))] for holder in holders))] = None
    return [group for group in found if len(group) > 1]


def reads_past_layers(module: nn.Module) -> bool:
    """Whether a module takes its layers' weights into a fused path where a mask makes its tensors nested."""
    if not isinstance(module, nn.TransformerEncoder) or not module.use_nested_tensor:
        return False
    return isinstance(module.layers[0].self_attn, nn.MultiheadAttention)


def why_not(module: nn.Module, inputs: set[str]) -> str | None:
    """Why a module with weights stays in float; None if it can be treated or has none of its own."""
    kind = quantized_type_of(module)
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if kind is None:
        return f"{type(module).__name__}: no integer form{as_subclass(module)}" if own else None
    if not inputs & set(kind.input_kinds):
        wanted = "weight_only_quantization" + (
            " and dynamic_quantization" if "dynamic" in kind.input_kinds and "dynamic" not in inputs else ""
        )
        because = f" ({kind.why_no_others})" if kind.why_no_others else ""
        return f"{type(module).__name__}: its inputs have no integer form here{because}: {wanted} can treat it"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has hooks that an integer layer would lose"
    if strange := [weight.dtype for _, weight in module.named_parameters() if weight.dtype != torch.float32]:
        return f"weights of {strange[0]}, not float32"
    return kind.why_not(module)


def as_subclass(module: nn.Module) -> str:
    """What to do where only a parent of the module's class is known: nothing says that the child computes the same."""
    known = [kind.float_type for kind in LAYER_TYPES.values() if isinstance(module, kind.float_type)]
    if not known:
        return ""
    name = known[0].__name__
    return f": expected {name} itself, got a class made from it: hold a {name} inside it, or leave it as it is"


def weight_names(layer: nn.Module) -> list[str]:
    """Names of a treatable layer's weights, biases left out."""
    if issubclass(quantized_type_of(layer) or QuantizedLayer, QuantizedRecurrent):
        return [name for name, _ in layer.named_parameters() if name.startswith("weight")]
    return ["weight"]


def replaced(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` wherever ``old`` is, under each of its names, and return the model."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            if not name:
                return new
            model.set_submodule(name, new)
    return model


def called_one_by_one(model: nn.Module, ignore: tuple[str, ...] = ()) -> nn.Module:
    """Have attention and transformer layers call linear layers for what they compute past them, in place.

    Attention becomes four linear layers and the same answers; what it cannot be taken apart for stays as it is. Of
    transformer layers a flag says which activation their fused kernel would use; 0 means one that it does not know.
    """
    shared = {name.rpartition(".")[0] for group in ties(model) for name in group}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        if type(module) is not nn.MultiheadAttention or own_problem(module) is not None:
            continue
        bound = name in shared or f"{name}.out_proj" in shared
        if not (inside(name, ignore) or bound or module._forward_hooks or module._forward_pre_hooks):
            apart = open_attention(module)
            whole = with_projections(HeadAttention(**apart.constructor_arguments()), apart)
            model = replaced(model, module, whole.train(module.training))
    return model


def finite_weights(method: str, name: str, layer: nn.Module) -> None:
    """Refuse a layer that no integers can stand for.

    Raises:
        CompressionError: a weight or bias is NaN or infinite.
    """
    for key, weight in layer.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise CompressionError(
                f"{method}: {name or 'the model'}: expected finite weights, got NaN or infinity in {key}: "
                "look at how it was trained"
            )


def integer_form(
    method: str,
    name: str,
    layer: nn.Module,
    scheme: Scheme,
    fit: Fit,
    inputs: StaticInput | Literal["dynamic", "float"],
) -> QuantizedLayer:
    """Round a treatable layer's weights and return the integer layer that takes its place.

    Args:
        method, name: of the step and of the layer, for the error.

    Raises:
        CompressionError: a weight or bias is NaN or infinite.
    """
    kind = quantized_type_of(layer)
    assert kind is not None  # treatable() chose it
    finite_weights(method, name, layer)
    rounded = {weight: quantized_weight(layer.get_parameter(weight), scheme, fit) for weight in weight_names(layer)}
    return kind.from_float(layer, rounded, inputs)


def refuse_none(method: str, wanted: str, model: nn.Module, context: Context) -> None:
    """Refuse a model of which nothing was treated.

    Raises:
        CompressionError: with the reason of every layer that was left.
    """
    if not context.notes.covered:
        reasons = "; ".join(f"{name or 'model'}: {reason}" for name, reason in context.notes.uncovered.items())
        raise CompressionError(
            f"{method}: expected {wanted}, got none that can be treated in {type(model).__name__}: "
            f"{reasons or 'it has no weights'}"
        )


def with_norms_folded(
    model: nn.Module, context: Context, ignore: tuple[str, ...] = ()
) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy with norms folded into the convolutions before them, and those norms' names by convolution.

    The order is seen while the model runs, as `batchnorm_folding` sees it. Norms that stay go to the notes.

    Args:
        ignore: names of modules that stay as they are, with everything inside them.

    Source: B. Jacob et al., CVPR 2018, §3.2 (folding of batch normalisation).
    """
    made = copy.deepcopy(model).eval()
    if not any(isinstance(module, NORMS) for module in made.modules()):
        return made, {}
    inputs = next(iter(context.task.batches("calibration", EXAMPLES))).inputs
    with torch.no_grad():
        before = call(made, inputs)
    norms: dict[str, str] = {}
    for name, found in pairs(made, inputs).items():
        norm = made.get_submodule(name)
        if not isinstance(norm, NORMS):
            continue
        problem = "ignored" if inside(name, ignore) else found.problem or why_not_into(found.layer, norm, made, ignore)
        if problem := problem or fold(made, found.layer, name, inputs, before, MOST_CHANGE):
            context.notes.uncovered[name] = f"{type(norm).__name__}: not folded: {problem}"
        else:
            norms[found.layer] = name
    return made, norms


def why_not_into(name: str, norm: nn.Module, model: nn.Module, ignore: tuple[str, ...]) -> str | None:
    """Why a norm is not folded into the layer before it; None if it can be."""
    layer = model.get_submodule(name)
    if inside(name, ignore):
        return f"{name} before it is ignored"
    if FUSED_NORMS.get(type(layer)) is not type(norm):
        return f"{name} before it is a {type(layer).__name__}: the step batchnorm_folding can do it"
    reason = why_not(layer, {"static"})
    return reason and f"{name} before it: {reason}"
