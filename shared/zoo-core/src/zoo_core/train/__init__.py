"""Training: a loop on Lightning Fabric that loses nothing when it is killed.

A task is a plain object. This is a whole one::

    class Fit:
        def __init__(self, network, x, y, recipe):
            self.module, self.x, self.y, self.recipe = network, x, y, recipe      # module: trained, averaged, saved
            self.order = Order(len(x), recipe.batch, recipe.seed)

        def optimizer(self):                     # the parameters are on their device by now
            return torch.optim.Adam(self.module.parameters(), fused=self.x.is_cuda)

        def learning_rate(self, step):           # of step 0, 1, 2, ...: a schedule is a function
            return 1e-3 * (1 - step / self.recipe.steps)

        def batch(self, step):                   # a pure function of (seed, step): resuming needs no more than that
            chosen = self.order.indices(step)
            noise = torch.randn(len(chosen), 1, generator=step_generator(self.recipe.seed, step))
            return {"x": self.x[chosen] + noise, "y": self.y[chosen]}

        def loss(self, batch):                   # self.module is wrapped here (DDP, compile); logs are scalars
            error = self.module(batch["x"]) - batch["y"]
            return error.square().mean(), {"mae": error.detach().abs().mean()}

        def evaluate(self, module):              # the averaged weights, eval mode, no gradients
            return {"mse": float((module(self.x) - self.y).square().mean())}

        def fingerprint(self):                   # changes when the data change
            return hashlib.sha256(self.x.numpy().tobytes()).hexdigest()

    seed_all(recipe.seed)                        # before the network is made
    record = fit(Fit(network, x, y, recipe), recipe, Path("runs/first"))

Calling `fit` again with the same folder goes on where the run stopped, also after kill -9. What depends on the step (a
loss weight, say) travels as a tensor in the batch; then it works compiled and in a CUDA graph too. `describe(step)`, if
there, names a batch's samples in the message about a NaN; `parts()`, if there, the modules that `compile: true`
compiles one by one, for batches of many shapes; `fill_cache()`, if there, is what `stage: cache` does instead of
training. Under torchrun every process makes the whole batch and keeps its rows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.train.decay import decay_groups
    from zoo_core.train.devices import launch
    from zoo_core.train.generators import seed_all
    from zoo_core.train.loop import fit
    from zoo_core.train.order import Order, step_generator
    from zoo_core.train.rates import warm_cosine
    from zoo_core.train.recipe import TrainRecipe
    from zoo_core.train.record import RunRecord
    from zoo_core.train.task import Task

_LAZY = {
    "Order": "order",
    "RunRecord": "record",
    "Task": "task",
    "TrainRecipe": "recipe",
    "decay_groups": "decay",
    "fit": "loop",
    "launch": "devices",
    "seed_all": "generators",
    "step_generator": "order",
    "warm_cosine": "rates",
}
__all__ = [
    "Order", "RunRecord", "Task", "TrainRecipe", "decay_groups", "fit", "launch", "seed_all", "step_generator",
    "warm_cosine",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # a recipe can be read and refused without torch
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
