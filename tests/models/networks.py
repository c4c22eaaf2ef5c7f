"""Networks of random weights for Cellpose, in files."""

import importlib.metadata
import sys


def cellpose_major():
    """The major version that is installed."""
    return int(importlib.metadata.version("cellpose").partition(".")[0])


def save_random_cellpose(path):
    """Save a network of the installed Cellpose; the same at each call."""
    import torch

    torch.manual_seed(7)
    if cellpose_major() == 3:
        from cellpose.resnet_torch import CPnet

        network = CPnet([2, 32, 64, 128, 256], 3, sz=3)
        last = network.output[2]
    else:
        import_torchvision()
        from cellpose.vit import CPSAM

        network = CPSAM()
        last = network.out
    with torch.no_grad():
        last.weight.mul_(10)  # or pixels would hardly flow
    network.save_model(str(path))


def import_torchvision():
    """Import torchvision, and if its compiled operators cannot be loaded, declare those that its import needs.

    Cellpose 4 uses what it has in Python. The index of packages has builds for CUDA alone, which find no CUDA
    beside a PyTorch for the processor.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        global library  # it ends with the object
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
