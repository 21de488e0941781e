"""SAELens' cache runner on the same work: one layer of the stream of the same packed tokens to the same disk.

It stores one hook point a run, so that several layers cost as many runs. It lives in an environment of its own under .bench/, which
borrows torch and transformers from the project's; its ratio is to the same bare forward, run around it in its own process.
"""

import importlib.metadata
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".bench" / "saelens"
LAYER, CONTEXT, ROWS = 6, 256, 8
N_ROWS = 64


def install() -> str:
    """Make the environment where it is missing; returns why it could not be made ("" where all is well)."""
    packages = HOME / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if list(packages.glob("sae_lens-*")):
        return ""
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True, capture_output=True)
        (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
        command = [str(HOME / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *pinned, "sae-lens"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        return f"SAELens could not be installed ({type(error).__name__})"
    return ""


def measured(pairs: int = 2) -> dict[str, object]:
    """{"ratios": [...], "version": ...} of one layer, or {"error": why}."""
    problem = install()
    if problem:
        return {"error": problem}
    command = [str(HOME / "bin" / "python"), "-m", "benchmarks.speed.saelens", str(pairs)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        return {"error": f"SAELens failed: {done.stderr.strip().splitlines()[-1][:160]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(pairs: int) -> None:
    """Inside its environment: the bare forward, its runner, the bare forward, …"""
    import torch
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    from .models import make_module, word_tokenizer

    folder = Path(tempfile.mkdtemp(prefix="saelens-bench-"))
    try:
        module = make_module("gpt2")
        module.save_pretrained(folder / "model")  # type: ignore[operator]
        word_tokenizer(module.config.vocab_size).save_pretrained(folder / "model")  # type: ignore[union-attr, arg-type]
        ids = torch.randint(1, module.config.vocab_size, (N_ROWS, CONTEXT), generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr, arg-type]
        rows = Dataset.from_dict({"input_ids": ids.tolist()})

        def bare() -> float:
            start = time.perf_counter()
            with torch.no_grad():
                for at in range(0, N_ROWS, ROWS):
                    part = ids[at : at + ROWS]
                    module(input_ids=part, attention_mask=torch.ones_like(part), use_cache=False)
            return time.perf_counter() - start

        def theirs(number: int) -> float:
            settings = CacheActivationsRunnerConfig(
                dataset_path="in memory",
                model_name=str(folder / "model"),
                model_class_name="AutoModelForCausalLM",
                model_batch_size=ROWS,
                hook_name=f"transformer.h.{LAYER}",
                d_in=768,
                training_tokens=N_ROWS * CONTEXT,
                context_size=CONTEXT,
                new_cached_activations_path=str(folder / f"out-{number}"),
                shuffle=False,
                device="cpu",
                streaming=False,
                prepend_bos=False,
                buffer_size_gb=0.05,
            )
            runner = CacheActivationsRunner(settings, override_dataset=rows)
            start = time.perf_counter()
            runner.run()
            return time.perf_counter() - start

        theirs(-1)
        around, mine = [bare()], []
        for number in range(pairs):
            mine.append(theirs(number))
            around.append(bare())
        ratios = [m / ((a + b) / 2) for m, a, b in zip(mine, around, around[1:], strict=False)]
        print(json.dumps({"ratios": ratios, "version": importlib.metadata.version("sae-lens")}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    child(int(sys.argv[1]))
