"""The control plane of the notification dispatcher: what faces people and other programs."""

__version__ = "0.1.0"
