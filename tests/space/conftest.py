"""The fixtures of `browser` and `running_demo` for all tests of the page."""

from .browser import chromium, visit
from .running_demo import demo, uploads

__all__ = ["chromium", "demo", "uploads", "visit"]
