"""Import torchvision where its build is not that of PyTorch: what Cellpose uses of it is in Python."""

import sys


def import_torchvision():
    """Import it, and if its compiled operators cannot be loaded, declare those that its import needs.

    The index of packages has builds for CUDA alone, which find no CUDA beside a PyTorch for the processor.
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
