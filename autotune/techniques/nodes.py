"""Attributes of ONNX nodes."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, or `default`."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """Value of an integer attribute, or `default`."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """Value of a text attribute, or `default`."""
    return next((a.s.decode() for a in node.attribute if a.name == name), default)
