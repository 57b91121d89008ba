"""Numerical agreement with the official implementation, measured on its golden files."""
