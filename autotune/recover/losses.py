"""What the student is taught by: the original's answers, the labels, the original's activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import onnx
import torch
import torch.nn.functional as F

from autotune.errors import DataError, UsageError
from autotune.layers import Layer
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import Compare, HardLoss
from autotune.techniques.nodes import attribute

Kind = Literal["logits", "probabilities", "chances", "numbers"]
Tensors = Mapping[str, Tensor]

_TINY = 1e-7  # a probability below counts as this
# Between a layer and an output these change no number's meaning.
_PASSING = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Dropout")
_LINEAR = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Output:
    """One output to compare. `student` and `teacher` are the tensors that are compared: the output itself or, where
    both graphs end in a softmax, what goes into it."""

    name: str
    kind: Kind
    student: str
    teacher: str


def outputs_of(
    student: onnx.GraphProto, teacher: onnx.GraphProto, answers: Tensors, compare: Compare = "auto"
) -> list[Output]:
    """How each output is compared, told from the graphs' ends and from the teacher's `answers` to one batch.

    A softmax over the last axis, or rows of the answers that add up to 1: probabilities. A sigmoid: chances. What a
    linear layer gives in rows of two numbers or more: logits. Everything else: numbers. `compare` "distributions" takes
    rows for logits wherever they come from, "numbers" takes everything for numbers.

    Raises `DataError` where the outputs of the two differ in name, or none holds real numbers.
    """
    names = [value.name for value in student.output]
    if set(names) != {value.name for value in teacher.output}:
        raise DataError(f"recover: the compressed model has outputs {', '.join(names)} and the original has others")
    found = []
    for name in names:
        answer = answers[name]
        if not answer.is_floating_point():
            continue
        rows = answer.dim() >= 2 and answer.shape[-1] >= 2
        ends = [_end(graph, name, answer.dim()) for graph in (student, teacher)]
        if compare == "numbers":
            found.append(Output(name, "numbers", name, name))
        elif ends[0][0] == ends[1][0] == "Softmax" and rows:
            found.append(Output(name, "logits", ends[0][1], ends[1][1]))
        elif rows and _are_probabilities(answer):
            found.append(Output(name, "probabilities", name, name))
        elif ends[0][0] == ends[1][0] == "Sigmoid":
            found.append(Output(name, "chances", name, name))
        elif rows and (compare == "distributions" or ends[1][0] in ("LogSoftmax", "Linear")):
            found.append(Output(name, "logits", name, name))
        else:
            found.append(Output(name, "numbers", name, name))
    if not found:
        raise DataError("recover: no output of the model holds real numbers, so there is nothing to learn from")
    return found


def _end(graph: onnx.GraphProto, name: str, rank: int) -> tuple[str, str]:
    """(what an output comes from: Softmax, LogSoftmax, Sigmoid, Linear or "", tensor that goes into it)."""
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(name)
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        last = attribute(node, "axis", -1) in (-1, rank - 1)
        return (node.op_type, node.input[0]) if last else ("", name)
    if node is not None and node.op_type == "Sigmoid":
        return "Sigmoid", node.input[0]
    while node is not None and node.op_type in _PASSING:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Add":
        constants = {tensor.name for tensor in graph.initializer}
        computed = [n for n in node.input if n not in constants]
        node = makers.get(computed[0]) if len(computed) == 1 else None
    while node is not None and node.op_type in _PASSING:
        node = makers.get(node.input[0])
    return ("Linear", name) if node is not None and node.op_type in _LINEAR else ("", name)


def _are_probabilities(answer: Tensor) -> bool:
    return bool(answer.min() >= -1e-4) and bool((answer.sum(dim=-1) - 1).abs().max() < 1e-2)


def soft_loss(outputs: Iterable[Output], student: Tensors, teacher: Tensors, count: int, temperature: float) -> Tensor:
    """How far the student is from the teacher, per sample [count]; the mean over outputs.

    Distributions: KL(teacher || student) at `temperature`, times its square (Hinton et al. 2015). Numbers: squared
    error over the teacher's variance. Raises `DataError` where shapes differ.
    """
    losses = []
    for output in outputs:
        mine, its = student[output.student], teacher[output.teacher].detach()
        if mine.shape != its.shape:
            raise DataError(
                f"recover: output {output.name!r} has shape {tuple(mine.shape)} in the compressed model and "
                f"{tuple(its.shape)} in the original; they must be alike"
            )
        losses.append(_apart(output.kind, mine, its, count, temperature))
    return torch.stack(losses).mean(dim=0)


def _apart(kind: Kind, mine: Tensor, its: Tensor, count: int, temperature: float) -> Tensor:
    if kind == "numbers":
        return per_sample((mine - its).square(), count) / _variance(its)
    if kind == "chances":
        mine, its = mine.clamp(_TINY, 1 - _TINY), its.clamp(_TINY, 1 - _TINY)
        certain = its * its.log() + (1 - its) * (1 - its).log()
        return per_sample(certain - its * mine.log() - (1 - its) * (1 - mine).log(), count)
    if kind == "probabilities":
        mine, its = mine.clamp(min=_TINY).log(), its.clamp(min=_TINY).log()
    log_mine = torch.log_softmax(mine / temperature, dim=-1)
    log_its = torch.log_softmax(its / temperature, dim=-1)
    return per_sample((log_its.exp() * (log_its - log_mine)).sum(dim=-1), count) * temperature**2


def per_sample(values: Tensor, count: int) -> Tensor:
    """Means [count] over everything but the samples; the same for all where samples cannot be told apart."""
    if values.dim() and values.shape[0] % count == 0 and values.shape[0]:
        return values.reshape(count, -1).mean(dim=1)
    return values.mean().expand(count)


def _variance(its: Tensor) -> Tensor:
    # A constant answer has no variance; its size is the measure then.
    variance = its.var(correction=0)
    return torch.where(variance > 1e-12, variance, its.square().mean().clamp(min=1e-12))


# -- activations


def shared_features(student: onnx.GraphProto, teacher: onnx.GraphProto, layers: Iterable[Layer]) -> list[str]:
    """Activations that the student's layers read and that the teacher has under the same name."""
    nodes = {node.name: node for node in student.node}
    made = {name for node in teacher.node for name in node.output}
    mine = {name for node in student.node for name in node.output}
    reads = [nodes[name].input[0] for layer in layers if layer.op != "Gather" for name in layer.nodes if name in nodes]
    return [name for name in dict.fromkeys(reads) if name in made and name in mine]


def feature_loss(names: Iterable[str], student: Tensors, teacher: Tensors, count: int) -> Tensor:
    """Squared error over the teacher's variance, per sample [count], the mean over activations of equal shape.

    Raises `UsageError` where no activation has the same shape in both.
    """
    losses = []
    for name in names:
        mine, its = student[name], teacher[name].detach()
        if mine.shape == its.shape:
            losses.append(per_sample((mine - its).square(), count) / _variance(its))
    if not losses:
        raise UsageError(
            "recover: features is set, but no activation has one name and shape in the compressed model and the "
            "original; set features to 0"
        )
    return torch.stack(losses).mean(dim=0)


# -- labels


def cross_entropy(outputs: Iterable[Output]) -> HardLoss:
    """Cross entropy of the only output against integer labels, per sample.

    Raises `UsageError` where that is not the form of the task.
    """
    found = list(outputs)
    if len(found) != 1 or found[0].kind not in ("logits", "probabilities"):
        raise UsageError(
            "recover: hard is set but the task is no classification by one output; give a loss of your own"
        )
    (output,) = found

    def run(tensors: Tensors, labels: tuple[Any, ...]) -> Tensor:
        scores = tensors[output.student]
        if scores.dim() != 2 or not all(isinstance(each, int) for each in labels):
            raise UsageError("recover: hard needs one integer label per sample and one row of scores; give a loss")
        log = scores.clamp(min=_TINY).log() if output.kind == "probabilities" else scores
        return F.cross_entropy(log, torch.tensor(labels), reduction="none")

    return run
