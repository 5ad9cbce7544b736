"""Print the MiB that one attention call needed above its inputs: `peak_memory_child.py NAME TOKENS DIM_HEAD MASK`."""

import resource
import sys
from pathlib import Path

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry

name, tokens, dim_head, masked = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "mask"
backend = registry.get(name)
assert backend is not None
torch.set_num_threads(1)
HEADS = 2  # their scores are 2 GiB in float32
generator = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 1, tokens, HEADS * dim_head, generator=generator)
# so is the mask when it is expanded over the heads
mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril_() if masked else None
with torch.inference_mode():
    backend.function(q[:, :64], k[:, :64], v[:, :64], HEADS)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    out = backend.function(q, k, v, HEADS, mask=mask)
status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak too
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
row = tokens - 1
scores = (
    torch.einsum("hd,nhd->hn", q[0, row].double().view(HEADS, -1), k[0].double().view(tokens, HEADS, -1))
    * dim_head**-0.5
)
truth = torch.einsum("hn,nhd->hd", scores.softmax(-1), v[0].double().view(tokens, HEADS, -1))
assert (out[0, row].double() - truth.flatten()).abs().max() < 1e-5
sys.stdout.write(f"{(peak - before) / 2**20}\n")
