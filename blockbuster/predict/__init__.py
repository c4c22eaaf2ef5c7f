"""Networks in two steps: predict on a device, a batch at a time, and decode beside it."""

from blockbuster.predict.device import DEVICE, Device, Lane, Request
from blockbuster.predict.predictor import Predictor

__all__ = ["DEVICE", "Device", "Lane", "Predictor", "Request"]
