"""What a network costs: parameters, multiply-adds and memory of its layers; how much of the image a unit sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from utils.gpu import MIB, text_table

UNFOLLOWED = (nn.Linear, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d, nn.LPPool2d)
UNFOLLOWED += (nn.ConvTranspose2d, nn.Upsample, nn.MaxUnpool2d, nn.PixelShuffle, nn.PixelUnshuffle, nn.Unfold, nn.Fold)
UNFOLLOWED += (nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
MAX_ROWS = 25  # of a table on a slide; VGG-19 has as many layers


@dataclass
class Layer:
    """A module and what it costs itself, without the modules in it; see :func:`costs`."""

    name: str
    kind: str
    output_shape: tuple[int, ...] = ()  # empty if the module gives no tensor or is not called
    parameters: int = 0
    multiply_adds: int = 0
    activation_bytes: int = 0


@dataclass(repr=False)
class Costs:
    """Result of :func:`costs`. Prints as a table of all layers, or of groups where there are too many for a slide."""

    modules: list[Layer]
    saved_bytes: int
    parameters = property(lambda self: sum(m.parameters for m in self.modules))
    multiply_adds = property(lambda self: sum(m.multiply_adds for m in self.modules))
    activation_bytes = property(lambda self: sum(m.activation_bytes for m in self.modules))

    @property
    def layers(self) -> list[Layer]:
        """The modules that cost something themselves; containers, views and operations in place mostly do not."""
        return [m for m in self.modules if m.parameters or m.multiply_adds or m.activation_bytes]

    def grouped(self, depth: int = 1) -> Costs:
        """Add up what lies deeper than `depth`; 1 leaves one layer for each child of the model."""
        groups: dict[str, Layer] = {}
        for m in self.modules:  # each stands before those in it
            name = ".".join(m.name.split(".")[:depth])
            group = groups.setdefault(name, Layer(name, m.kind, m.output_shape))
            group.parameters += m.parameters
            group.multiply_adds += m.multiply_adds
            group.activation_bytes += m.activation_bytes
        return Costs(list(groups.values()), self.saved_bytes)

    def __repr__(self) -> str:
        depth = max(m.name.count(".") for m in self.modules) + 1
        while depth > 1 and len(self.grouped(depth).layers) > MAX_ROWS:
            depth -= 1
        layers = self.grouped(depth).layers
        width = max((len(m.name) for m in layers), default=0)
        rows = [("layer", "output", "parameters", "multiply-adds (M)", "activations (MiB)")]
        for m in [*layers, Layer("total", "", (), self.parameters, self.multiply_adds, self.activation_bytes)]:
            numbers = f"{m.parameters:,}", f"{m.multiply_adds / 1e6:,.1f}", f"{m.activation_bytes / MIB:,.2f}"
            rows.append((f"{m.name:{width}}  {m.kind}", "×".join(map(str, m.output_shape)), *numbers))
        return f"{text_table(rows)}\nheld for the backward pass: {self.saved_bytes / MIB:,.1f} MiB"


class _Shortcut(TorchDispatchMode):
    """Makes the results of batch normalization, which take the meta device longer than all other layers together."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten.native_batch_norm.default and not args[5]:  # not in training mode
            return tuple(torch.empty_like(args[i]) for i in (0, 3, 3))  # like the input, running mean, running mean
        return operation(*args, **(kwargs or {}))


class _Ledger(_Shortcut):
    """Puts every operation to the account of the innermost running module."""

    def __init__(self, known: set[torch.UntypedStorage]) -> None:
        super().__init__()
        self.known = known
        self.running: list[Layer] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(operation, types, args, kwargs)
        if count_flops := flop_registry.get(operation.overloadpacket):
            self.running[-1].multiply_adds += count_flops(*args, **(kwargs or {}), out_val=result) // 2
        elif operation.overloadpacket in (torch.ops.aten.mv, torch.ops.aten.dot):  # which that table lacks
            self.running[-1].multiply_adds += args[0].numel()
        # The first result is the activation; others are indices of max-pooling or statistics of normalization.
        output = result[0] if isinstance(result, tuple | list) else result
        if isinstance(output, Tensor) and (storage := output.untyped_storage()) not in self.known:
            self.known.add(storage)
            self.running[-1].activation_bytes += storage.nbytes()
        return result


@torch.inference_mode(False)  # a caller's inference mode would hide operations, and keep nothing for a backward pass
def costs(model: nn.Module, input_size: tuple[int, ...]) -> Costs:
    """Count what `model`, which stays as it is, costs for one tensor of a size such as ``(1, 3, 224, 224)``.

    This runs a copy on the meta device, where tensors have shapes but no numbers: nothing is computed or allocated.
    Its forward pre-hooks run, too, and see such tensors.
    What a module does itself, such as the addition in a residual block, counts for that module.

    Returns
    -------
    Costs
        ``layers``, each with its ``parameters``, and for one forward pass in evaluation mode ``multiply_adds`` in
        convolutions and matrix products (1 multiply-add = 2 FLOPs) and ``activation_bytes`` (results that are not
        views or in place); the sums of these; ``saved_bytes``, which a forward pass in training mode keeps for the
        backward pass, input included, parameters not. Attention is counted unfused: it keeps its large matrices.

    Raises
    ------
    ValueError
        If the model cannot run on such an input; it says in which layer, and why.
    """
    memo = {id(t): nn.Parameter(torch.empty_like(t, device="meta"), t.requires_grad) for t in model.parameters()}
    # Buffers, and what some modules keep of an earlier pass: in attributes, in lists, in dictionaries.
    kept = [t for t in tree_leaves([vars(module) for module in model.modules()]) if isinstance(t, Tensor)]
    memo |= {id(t): torch.empty_like(t, device="meta", requires_grad=False) for t in kept if id(t) not in memo}
    state = list(memo.values())
    model = copy.deepcopy(model, memo)
    dtype = next((t.dtype for t in state if t.is_floating_point()), torch.float32)
    images = torch.empty(input_size, dtype=dtype, device="meta")
    known, saved = {t.untyped_storage() for t in state}, set()
    ledger = _Ledger({*known, images.untyped_storage()})

    def leave(module: nn.Module, _: object, output: object) -> None:
        layer = ledger.running.pop()
        if isinstance(output, Tensor) and not model.training:
            layer.output_shape = tuple(output.shape)

    layers = {name: Layer(name, type(module).__name__) for name, module in model.named_modules()}
    for name, module in model.named_modules():
        module._forward_hooks.clear()  # the caller's; hooks before the pass stay, since old spectral_norm works by one
        module.register_forward_pre_hook(lambda *_, layer=layers[name]: ledger.running.append(layer), prepend=True)
        module.register_forward_hook(leave)
    for name, parameter in model.named_parameters():  # shared ones only once
        layers[name.rpartition(".")[0]].parameters += parameter.numel()
    try:
        with torch.no_grad(), ledger:
            model.eval()(images)
        keep = saved_tensors_hooks(lambda t: saved.add(t.untyped_storage()) or t, lambda t: t)
        with torch.enable_grad(), keep, _Shortcut():
            for module in model.modules():  # batch normalization refuses single values in training, but saves the same
                module.training = not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
            model(images)
    except Exception as error:
        layer, reason = ledger.running[-1], str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"An input of size {input_size} fails in {layer.kind} {layer.name!r}: {reason}") from None
    return Costs(list(layers.values()), sum(storage.nbytes() for storage in saved - known))


class ReceptiveField(NamedTuple):
    """Along each side of the image, unit i sees `size` pixels from pixel ``i * stride + offset`` on."""

    size: int
    stride: int
    offset: int


def receptive_field(chain: nn.Module) -> ReceptiveField:
    """Follow the receptive field of a unit through a chain of layers, such as ``vgg.features`` or a slice of it.

    Convolutions and pooling widen it (Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
    Networks", Distill 2019); other layers are taken to work on each position by itself.

    Raises
    ------
    ValueError
        If the chain has branches, kernels that are not square, or layers that only pad, enlarge or see the whole image.
    """
    size, stride, offset = 1, 1, 0
    for name, layer in chain.named_modules(remove_duplicate=False):
        where = f"{type(layer).__name__} {name!r}"
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            settings = [getattr(layer, key, 1) for key in ("kernel_size", "stride", "dilation", "padding")]
            sides = [set(value) if isinstance(value, tuple) else {value} for value in settings]
            if any(len(side) > 1 for side in sides):
                raise ValueError(f"{where} treats height and width differently, which receptive_field cannot follow.")
            kernel, step, dilation, padding = (side.pop() for side in sides)
            size += (kernel - 1) * dilation * stride
            offset -= {"same": (kernel - 1) * dilation // 2, "valid": 0}.get(padding, padding) * stride
            stride *= step
        elif isinstance(layer, UNFOLLOWED) or (
            any(layer.children()) and type(layer).forward is not nn.Sequential.forward
        ):
            what = "has branches, only pads, rearranges pixels, enlarges or sees the whole image"
            raise ValueError(f"{where} {what}. Pass a chain: model.features?")
    return ReceptiveField(size, stride, offset)
