"""What holds for all unit tests."""

from tests.support.trust import nobody_is_trusted

__all__ = ["nobody_is_trusted"]
