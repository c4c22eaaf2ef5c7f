"""What CuPy says of the GPU, asked without the package."""


def gpu_memory():
    """Free and total bytes of the GPU that CuPy finds; None where it finds none."""
    try:
        import cupy

        return tuple(map(int, cupy.cuda.Device().mem_info))
    except Exception:
        return None
