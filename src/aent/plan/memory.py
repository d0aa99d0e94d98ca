"""Peak memory of one process of a run, part by part.

The largest of three moments: sampling (key/value cache, logits), the backward pass of the largest
micro-batch (activations, head), the optimiser's step (one temporary copy). Weights, gradients and
optimiser state stand through all three. Every sequence is taken to be as long as it may be. What
is counted is what this project's loop keeps: float32 weights and AdamW, bf16 by autocast, the
fused head that never holds tokens x vocabulary. On a CPU the C library may keep freed memory, too:
a process of the laptop's settings has been seen with a third more than is estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aent.config import Run
from aent.config.engine import VllmEngine
from aent.config.model import Shape
from aent.plan.shape import layer_parameters, parameters, transformer_parameters

FLOAT, HALF, INTEGER = 4, 2, 8  # bytes
MOMENTS = 2  # of AdamW
ROOM, LEAST_ROOM = 4, 32  # the cache grows by a quarter, and by so many tokens at least


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of the largest micro-batch, with what FSDP2 gathers or autocast copies for it."""
    head: int
    """Tiles of logits and the gradient of the output embedding."""
    cache: int
    """Keys and values in sampling, as far as the buffers grow, and one layer's repeated heads; of
    vLLM, its share of the GPU, weights included."""
    sampling: int
    """Logits, random numbers, prefill, and the gathered weights of FSDP2."""
    step: int
    """Temporaries of the optimiser."""
    standing: int = 0
    """What vLLM holds at every moment because it does not sleep."""

    @property
    def resident(self) -> int:
        """What stands at every moment."""
        return self.weights + self.gradients + self.optimizer + self.standing

    @property
    def moments(self) -> dict[str, int]:
        """What each moment takes on top."""
        return {
            "sampling": self.cache + self.sampling,
            "backward pass": self.activations + self.head,
            "optimiser": self.step,
        }

    @property
    def peak(self) -> int:
        """The largest of all."""
        return self.resident + max(self.moments.values())


@dataclass(frozen=True)
class _Scene:
    """What the parts are computed from."""

    shape: Shape
    critic: bool
    half: bool
    sharded: bool
    processes: int
    checkpointing: bool
    length: int
    """Longest sequence."""
    prompt: int
    sequences: int
    """Rows that a process collects in a step."""
    rows: int
    """Rows that it samples at once."""
    prompts: int
    """Prompts among those."""
    micro_rows: int
    """Rows of the largest micro-batch."""
    device: str

    @property
    def tokens(self) -> int:
        """Of the largest micro-batch."""
        return self.micro_rows * self.length


def estimate_memory(run: Run, shape: Shape, gpu_bytes: float = 0.0) -> Memory:
    """Peak memory of one process: one GPU, or the run itself on a CPU.

    Args:
        run: the run.
        shape: its model's.
        gpu_bytes: memory of the GPU, of which vLLM takes the configured share.
    """
    scene = _scene(run, shape)
    engine = run.setting.rollout.engine
    if isinstance(engine, VllmEngine):
        taken = int(engine.memory_fraction * gpu_bytes) if engine.mode == "colocate" else 0
        cache, standing = (taken, 0) if engine.sleep else (0, taken)
        sampling = _kept(scene) + _gathered(scene)
    else:
        cache, standing, sampling = _cache(scene), 0, _sampling(scene)
    trained = parameters(shape) + (transformer_parameters(shape) if scene.critic else 0)
    own = math.ceil(trained / (scene.processes if scene.sharded else 1))
    return Memory(
        weights=FLOAT * own,
        gradients=FLOAT * own,
        optimizer=FLOAT * MOMENTS * own,
        activations=_activations(scene),
        head=_head(scene),
        cache=cache,
        sampling=sampling,
        step=FLOAT * own,
        standing=standing,
    )


def _scene(run: Run, shape: Shape) -> _Scene:
    trainer, rollout = run.setting.trainer, run.setting.rollout
    length = rollout.max_prompt_tokens + rollout.max_response_tokens
    sequences = trainer.prompts * trainer.samples // trainer.processes
    minibatch = sequences // trainer.minibatches
    budget = trainer.micro_batch_tokens or minibatch * length
    rows = min(rollout.rows, sequences)
    return _Scene(
        shape=shape,
        critic=run.method.critic is not None,
        half=trainer.dtype == "bfloat16",
        sharded=trainer.processes > 1 and trainer.strategy == "fsdp2",
        processes=trainer.processes,
        checkpointing=trainer.gradient_checkpointing,
        length=length,
        prompt=rollout.max_prompt_tokens,
        sequences=sequences,
        rows=rows,
        prompts=max(1, rows // trainer.samples),
        micro_rows=min(max(1, budget // length), minibatch),
        device=trainer.device,
    )


def layer_bytes(shape: Shape, half: bool) -> int:
    """What one layer keeps of a token for the backward pass.

    The norms keep their input, the normalised input and the product; attention its query, key,
    value and output, heads repeated; the feed-forward part four vectors of its width. Autocast
    keeps the norms in float32 and adds a bf16 copy of the input of each of five products.
    """
    width, inner = shape.attention_width, shape.intermediate
    keys = width if shape.kv_heads != shape.heads else shape.kv_width
    products = 2 * width + 2 * keys + 4 * inner
    if half:
        return FLOAT * 6 * shape.hidden + HALF * (5 * shape.hidden + products)
    return FLOAT * (6 * shape.hidden + products)


def _activations(scene: _Scene) -> int:
    shape, tokens = scene.shape, scene.tokens
    unit = HALF if scene.half else FLOAT
    # The additive attention mask that each layer makes of the boolean one.
    mask = scene.micro_rows * scene.length**2
    layer = tokens * layer_bytes(shape, scene.half) + unit * mask
    # Gradients of a layer's widest tensors exist beside what it has kept.
    passing = tokens * (3 * unit * shape.intermediate + 2 * FLOAT * shape.hidden)
    ends = FLOAT * tokens * 4 * shape.hidden  # embeddings, last norm, chosen positions
    if scene.checkpointing:
        kept = shape.layers * FLOAT * tokens * shape.hidden + layer
    else:
        kept = shape.layers * layer
    networks = 2 if scene.critic else 1  # policy and critic are differentiated together
    return networks * (kept + ends + _copied(scene)) + passing + mask


def _copied(scene: _Scene) -> int:
    """Weights that exist a second time: two gathered layers of FSDP2, or autocast's copies."""
    shape = scene.shape
    unit = HALF if scene.half else FLOAT
    if scene.sharded:
        return unit * (2 * layer_parameters(shape) + shape.vocabulary * shape.hidden)
    return HALF * shape.layers * layer_parameters(shape) if scene.half else 0


def _head(scene: _Scene) -> int:
    shape = scene.shape
    embedding = shape.vocabulary * shape.hidden
    # Logits that exist at once, as `aent.entropy.tiles` cuts them; on a GPU with room to work in.
    if scene.device == "cpu":
        logits = (1 if shape.vocabulary <= 8192 else 20) * (1 << 20)
    else:
        logits = 3 * (1 << 25)
    copies = HALF * embedding if scene.half else 0
    gathered = (HALF if scene.half else FLOAT) * embedding if scene.sharded else 0
    return FLOAT * (logits + embedding + scene.tokens * shape.hidden) + copies + gathered


def _cache(scene: _Scene) -> int:
    shape = scene.shape
    unit = HALF if scene.half and scene.sharded else FLOAT
    held = scene.prompt
    while held < scene.length:
        held += max(LEAST_ROOM, held // ROOM)
    layer = 2 * scene.rows * held * shape.kv_width * unit
    repeated = 2 * scene.rows * scene.length * shape.attention_width * unit
    # While a layer grows, its old keys or values exist beside the new ones.
    return shape.layers * layer + layer // 2 + (repeated if shape.kv_heads != shape.heads else 0)


def _kept(scene: _Scene) -> int:
    """A random number, a token and its log-probability for each place; the prompt's mask."""
    response = scene.length - scene.prompt
    return scene.sequences * response * (2 * INTEGER + FLOAT) + scene.rows * scene.length * INTEGER


def _gathered(scene: _Scene) -> int:
    """Weights that FSDP2 gathers, to sample with or to send to vLLM."""
    unit = HALF if scene.half else FLOAT
    return unit * parameters(scene.shape) if scene.sharded else 0


def _sampling(scene: _Scene) -> int:
    shape = scene.shape
    unit = HALF if scene.half and scene.sharded else FLOAT
    logits = 2 * FLOAT * scene.rows * shape.vocabulary
    prefill = scene.prompts * scene.prompt * unit * (3 * shape.intermediate + 4 * shape.hidden)
    return logits + _kept(scene) + prefill + _gathered(scene)
