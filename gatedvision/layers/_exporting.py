"""Whether a program is being recorded that is to run elsewhere."""

import torch


def is_exporting() -> bool:
    """Tell whether ``torch.export``, or ONNX's exporter by it, is recording.

    Up to torch 2.11, ``torch.compiler.is_exporting`` says so within plain ``torch.compile``, too; the flag it reads is
    right. Before torch 2.7 nothing tells the two apart.
    """
    return getattr(torch.compiler, "_is_exporting_flag", torch.compiler.is_compiling())
