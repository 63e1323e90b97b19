"""Helpers of the course's notebooks: data, plots, memory and timing, costs, pretrained networks, training.

Importing this package imports torch and nothing heavier.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import torch

# PyPI's Linux wheel of torchvision is built for CUDA. Beside a CPU-only torch its compiled operators cannot
# be loaded, and `import torchvision` stops with "operator torchvision::nms does not exist" (pytorch/vision
# issues 9077, 9085, 9174). Declaring the two operators that it needs on import is enough for everything but
# object detection. Where the operators can be loaded, this loads them, as torchvision itself would; where none are
# found, torchvision may have them elsewhere: to declare what it then loads would end the process.
_torchvision = PathFinder.find_spec("torchvision")
if sys.platform == "linux" and _torchvision and _torchvision.origin and not hasattr(torch.ops.torchvision, "nms"):
    for _compiled in Path(_torchvision.origin).parent.glob("_C*.so"):  # _C, since torchvision 0.29 _C_stable
        try:
            torch.ops.load_library(str(_compiled))
        except OSError:
            _operators = torch.library.Library("torchvision", "DEF")
            _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            break
