"""
Rollouts with vLLM itself, on a card, with the same runs on the CPU against the stand-in.

`examples/gpu_smoke.py` runs these checks and prints the figures they record.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine_worker
import stand_in_engine
from test_on_device import Place, _smollm2
from tiny import save_tiny_model, tiny_tokenizer


HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    if request.param == "cpu":
        return Place("cpu", save_tiny_model(folder, tiny_tokenizer(), hidden=64, layers=2), 8)
    pytest.importorskip("vllm", reason="vLLM is not installed")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    return Place("cuda", _smollm2(folder) or save_tiny_model(folder, tiny_tokenizer(), hidden=256, layers=4), 32)


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    """Gives what runs `engine_worker.run`: here against the stand-in, on a card in a process of its own."""

    def here(**given):
        stand_in_engine.install(monkeypatch)
        return engine_worker.run(place, str(tmp_path), **given)

    def aside(**given):
        out = tmp_path / "figures.json"
        asked = {"device": place.device, "model": place.model, "tokens": place.tokens, "folder": str(tmp_path)}
        paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, str(HERE / "engine_worker.py"), json.dumps({**asked, "out": str(out), **given})],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(out.read_text())

    return aside if place.on_gpu else here


WAYS = {
    "adapter": {},
    "adapter asleep": {"vllm_enable_sleep_mode": True},
    "adapter on 16 bits": {"vllm_base": "16bit"},
    "dense": {"vllm_sync": "dense"},
    "dense asleep": {"vllm_sync": "dense", "vllm_enable_sleep_mode": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_vllm_samples_from_the_policy_that_is_trained(place, run, record_property, way):
    found = run(**WAYS[way])
    record_property("sync difference", f"{max(found['rollout/sync_difference']):.3g}")
    record_property("k3", f"{max(found['rollout/mismatch_k3']):.3g}")
    record_property("effective sample size", f"{min(found['rollout/effective_sample_size']):.3g}")
    record_property("largest difference of a token", f"{found['token_difference']:.3g}")
    assert found["base_is_kept"]
    assert len(found["rollout/sync_difference"]) == 3
    if not place.on_gpu and "16 bits" not in way:
        # The stand-in does not quantize its scales, as the trainer does here
        assert found["token_difference"] < 1e-2


@pytest.mark.parametrize("sync", ["adapter", "dense"])
def test_refill_rounds_while_vllm_sleeps(run, record_property, sync):
    found = run(refills=True, vllm_sync=sync, vllm_enable_sleep_mode=True)
    record_property("refill rounds", sum(found["dapo/refill_rounds"]))
    assert sum(found["dapo/refill_rounds"]) > 0
    # Rounds of one policy take one sync
    assert len(found["rollout/sync_difference"]) == 3


def test_evaluations_with_vllm(run, record_property):
    found = run(evaluates=True, vllm_enable_sleep_mode=True)
    record_property("evaluations", found["evaluations"])
    assert found["evaluations"] == 4


def test_an_adapter_that_vllm_does_not_apply_stops_the_run(run, record_property):
    found = run(applied=False)
    record_property("message", found["stopped"][:90])
    assert "samples from the base, as if no adapter were applied" in found["stopped"]
