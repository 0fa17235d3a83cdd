"""One of two processes that shape their batches together; the first does it alone with the whole batch before."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from gatedvision.layers.batch_shaping import GeneralizedBatchShaping, gather_batch  # noqa: E402
from gatedvision.layers.shaping_priors import BetaPrior  # noqa: E402


def gradients(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the loss of a batch, and its gradients to the gates, the means and the temperatures."""
    torch.manual_seed(0)
    values.requires_grad_()
    loss = GeneralizedBatchShaping(5, BetaPrior(3.0, 7.0), dtype=torch.float64)
    total = loss(gather_batch(values))["total"]
    found = torch.autograd.grad(total, [values, loss.mean_logit, loss.temperature_logit])
    return {"loss": total.detach(), **dict(zip(("values", "mean", "temperature"), found, strict=True))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    batch = torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if rank == 0:
        torch.save(gradients(batch.clone()), folder / "whole.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.save(gradients(batch[6 * rank : 6 * rank + 6].clone()), folder / f"half_{rank}.pt")
    dist.destroy_process_group()
