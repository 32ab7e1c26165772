"""Muon, an optimizer for matrices: momentum whose singular values are all brought near 1.

https://kellerjordan.github.io/posts/muon/. With short training it needs about half of AdamW's steps. Current versions of
PyTorch have one of their own, Debian's has not.
"""

import torch


class Muon(torch.optim.Optimizer):
    """For the matrices inside layers; embeddings and vectors belong to another optimizer."""

    def __init__(self, matrices, momentum=0.95, weight_decay=0.1):
        super().__init__(matrices, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = orthogonal(weight.grad + group["momentum"] * state["momentum"])
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix):
    """About U V' of matrix = U S V': five steps of a Newton-Schulz iteration, whose result has singular values in
    [0.7, 1.2]. The coefficients are those of the reference."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.t()
    for _ in range(5):
        square = x @ x.t()
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.t() if tall else x
