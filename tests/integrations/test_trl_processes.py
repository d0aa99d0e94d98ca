"""Two processes with unequal token counts against plain autograd over the whole batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="the integration needs TRL: pip install .[trl]")

K = 20


@pytest.mark.slow
def test_two_processes_share_loss_gradient_and_coefficient(tiny_qwen, ragged_rollouts, tmp_path):
    batch = {
        "prompt_ids": ragged_rollouts.prompt_ids,
        "prompt_mask": ragged_rollouts.prompt_mask.long(),
        "completion_ids": ragged_rollouts.response_ids,
        "completion_mask": ragged_rollouts.response_mask.long(),
        "advantages": torch.zeros(4),  # the policy's own term is TRL's matter
    }
    torch.save(batch, tmp_path / "batch.pt")
    (tmp_path / "model.json").write_text(json.dumps(tiny_qwen.config.to_diff_dict()))
    run_two(tmp_path)

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]
    logits = tiny_qwen(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    policy = logits.topk(K).values.log_softmax(-1)
    entropy = -(policy.exp() * policy).sum(-1)[ragged_rollouts.response_mask].mean()
    (-0.5 * entropy).backward()

    for process in range(2):
        found = torch.load(tmp_path / f"found{process}.pt")
        assert found["wrapped"]
        assert found["metrics"]["entropy/clamped"] == pytest.approx(entropy.item(), rel=1e-5)
        assert found["metrics"]["entropy/coefficient"] == 0.5
        expected = 0.5 + 0.01 * (10.0 - entropy.item())
        assert found["coefficient"] == pytest.approx(expected, rel=1e-6)
        for name, value in tiny_qwen.named_parameters():
            torch.testing.assert_close(
                found["gradients"][name], value.grad, atol=1e-5, rtol=1e-5, msg=name
            )


def run_two(folder):
    """Run the script in two processes; fail with its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ddp_script.py")), str(folder)],
            env=os.environ
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
