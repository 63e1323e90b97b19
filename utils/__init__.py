"""Helpers of the course's notebooks: data, plots, memory and timing, costs, pretrained networks, training.

Importing this package imports torch and nothing heavier.
"""

import sys
from importlib.machinery import PathFinder

import torch

# PyPI's Linux wheel of torchvision is built for CUDA. Beside a CPU-only torch its compiled operators cannot
# be loaded, and `import torchvision` stops with "operator torchvision::nms does not exist" (pytorch/vision
# issues 9077, 9085, 9174). Declaring the two operators that it needs on import is enough for everything but
# object detection. Where the operators can be loaded, this loads them, as torchvision itself would.
_torchvision = PathFinder.find_spec("torchvision")
if sys.platform == "linux" and _torchvision and not hasattr(torch.ops.torchvision, "nms"):
    _compiled = PathFinder.find_spec("_C", _torchvision.submodule_search_locations)
    try:
        torch.ops.load_library(_compiled.origin if _compiled else "torchvision/_C.so")
    except OSError:
        _operators = torch.library.Library("torchvision", "DEF")
        _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
