"""The same model, step, evaluation and generation in PyTorch, room for room. Imports no JAX.

    model.py        the Transformer, its blocks, its initial weights
    layers.py       linear layers, norms, embeddings, activations, positions
    attention.py    the plain form and the fused kernel; the KV cache
    dropout.py      the engine's masks, bit for bit
    taps.py         hooks that read what each part puts out
    threefry.py     the counter-based generator behind dropout and sampling
    optimizer.py    AdamW with its two groups, Lion, clipping
    step.py         one training step and one evaluation step
    sampling.py     from logits to the next token
    decoding.py     cached decoding
    checkpoint.py   the one file that meets Orbax (and through it JAX)
    engine.py       all of it as `jaxlm.spec.contract.Engine`, which `backend=torch` selects

Configuration, data, initial values, schedules, the training loop, run directory and reports are
jaxlm's, which are free of both frameworks.
"""
