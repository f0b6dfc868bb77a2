"""One rank of the launch that most tests of test_host_engine.py look at. Arguments: a folder."""

import os
import sys

import host_ranks as parts

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras
from ascend_keras.distributed import collectives

collectives.BUCKET_BYTES = 1000  # so that small models take several collectives a step
trainer, rank, size = parts.new_trainer(seed=1)
backend = trainer.backend
out = {
    "describe": trainer.describe(),
    "threads": collectives.threads_per_rank(trainer.settings.cluster.addresses, rank),
}
out["cores"] = len(os.sched_getaffinity(0))
out["broadcast"] = parts.broadcast(backend, rank)
out["gradients"] = parts.gradients(backend, rank)
out["twins"] = parts.twins(backend, rank)
out["clipped"] = parts.clipped(backend, rank, size)

for name in sorted(parts.OPTIMIZERS):
    model = parts.train(trainer, name, rank, size)
    out[name] = parts.floats(model.get_weights())
    out[name + " bits"] = parts.hexed(model.get_weights())
    out[name + " optimizer"] = parts.describe_optimizer(model)
    out[name + " saved"] = parts.saved(model, sys.argv[1], rank)
out["assembled again"] = backend.assemble(model.optimizer, None) is model.optimizer
out["scaled"] = parts.floats(parts.train(trainer, "sgd", rank, size, loss_scale="dynamic").get_weights())
out["compiled again"] = parts.floats(parts.compiled_again(trainer, rank, size))
out["overflow"] = parts.overflow(trainer, rank)
out["uneven"] = parts.uneven(trainer, rank)
if not compat.TF1:
    found = parts.variants(trainer, rank, size)
    out["variants"] = {name: parts.floats(weights) for name, weights in found.items()}
    out["variants bits"] = {name: parts.hexed(weights) for name, weights in found.items()}
if compat.KERAS3:
    out["accumulated"] = parts.floats(parts.accumulated(trainer, rank, size))

vector = [1.0 + rank, -0.1, float("nan") if rank else 1.0, 1e300, 2.0**53]
out["gather"] = parts.hexed([backend.gather_over_ranks(vector)])
out["sum"] = parts.hexed([backend.sum_over_ranks(vector)])
out["empty"] = list(backend.gather_over_ranks([]).shape)
out["texts"] = [
    backend.gather_texts("equal \u00e4"),
    backend.gather_texts("rank {} \u00e4\n".format(rank) * (rank + 1) * 200),
]
x, y = parts.data(8)
verbs = {"fit": lambda: trainer.fit(model, x, y), "evaluate": lambda: trainer.evaluate(model, x, y)}
verbs["predict"] = lambda: trainer.predict(model, x)
pairs = [("predict", "evaluate"), ("predict", "fit"), ("evaluate", "fit")]
out["verbs"] = [parts.raised(verbs[pair[rank]]) for pair in pairs]
out["xla"] = parts.raised(backend.compile_arguments, {"jit_compile": True})

# An optimizer whose loss scaling changes: the reduction has to move with it, and to stay the only one.
optimizer = keras.optimizers.SGD(0.1)
moved = []
for scale in (None, "dynamic", 8.0, None):
    optimizer = backend.assemble(optimizer, scale)
    inner = compat.inner_optimizer(optimizer)
    moved.append(
        [optimizers.is_distributed(one) for one in ([optimizer] if inner is optimizer else [optimizer, inner])]
    )
out["moved"] = moved

# The process stays with its ranks, so a second trainer finds them there.
trainer.close()
trainer, rank, size = parts.new_trainer()
out["second"] = parts.floats(parts.train(trainer, "sgd", rank, size).get_weights())
if compat.TF1:
    keras.backend.clear_session()
    out["cleared"] = parts.raised(trainer.backend.before_run, 1, {})
trainer.close()
parts.report(out)
