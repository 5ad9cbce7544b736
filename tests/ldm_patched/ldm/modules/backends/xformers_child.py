"""Pass our biases to the real input checks of xformers, without running a kernel; print how many passed, and how many
of the same biases fail without the padding, which proves that the checks look."""

import itertools
import sys

import torch
import xformers.ops
from attention_patchbay.ldm_patched.ldm.modules.backends.shapes import to_bias, to_mask
from attention_patchbay.ldm_patched.ldm.modules.backends.xformers import attention_xformers
from xformers.ops import fmha

given = []
unpadded = 0
xformers.ops.memory_efficient_attention = lambda q, k, v, attn_bias=None, scale=None: (
    given.append(fmha.Inputs(q, k, v, attn_bias=attn_bias, scale=scale)) or q
)


def complaints(inputs):
    """Return what xformers says against the inputs, apart from the device and the missing build."""
    inputs.validate_inputs()
    said = fmha.cutlass.FwOp.not_supported_reasons(inputs)
    return [
        text
        for text in said
        if not text.startswith(("device=", "operator wasn't built", "requires device", "bf16 is only"))
    ]


for dtype, n_k, kind in itertools.product(
    (torch.float32, torch.float16, torch.bfloat16), (1, 5, 8, 77, 80), (torch.bool, torch.float32)
):
    q = torch.randn(2, 33, 4 * 40, dtype=dtype)
    k = torch.randn(2, n_k, 4 * 40, dtype=dtype)
    for shape in ((n_k,), (33, n_k), (2, n_k), (2, 33, n_k), (1, 1, 33, n_k), (2, 4, 33, n_k), (2, 1, 33, 1)):
        mask = (torch.rand(shape) > 0.5).to(kind)
        attention_xformers(q, k, k, 4, mask=mask)
        said = complaints(given[-1])
        if said:
            sys.exit(f"{dtype} {n_k} {kind} {shape}: {said}")
        heads = q.view(2, 33, 4, 40).transpose(1, 2)
        plain = to_bias(to_mask(mask, heads, n_k), dtype).expand(2, 4, 33, n_k)
        unpadded += bool(complaints(fmha.Inputs(given[-1].query, given[-1].key, given[-1].value, attn_bias=plain)))
    attention_xformers(q, k, k, 4)
    if complaints(given[-1]):
        sys.exit(f"{dtype} {n_k} without a mask: {complaints(given[-1])}")
sys.stdout.write(f"{len(given)} {unpadded}\n")
