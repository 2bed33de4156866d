"""Peak memory and CPU time of logprobs, whole logits against chunks: `python tests/bench/bench_logprobs.py`.

Each case runs in a process of its own: forward and backward of `forward(...)` on a random Llama with two layers. The
peak is the growth of the resident set from just before the pass; weights and their gradients are there already. One
thread, whose CPU time others on the machine change little.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# Rows, response tokens of each, vocabulary; whether the head is frozen, as under an adapter; whether entropy is asked.
CASES = [
    (8, 256, 32_000, False, False),
    (16, 256, 32_000, False, False),
    (8, 256, 151_936, False, False),
    (8, 256, 151_936, True, False),
    (8, 256, 151_936, False, True),
]
PROMPT = 32
HIDDEN = 256


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def batch_of(rows: int, tokens: int, vocabulary: int) -> Any:
    """Every response is of full length, so chunks save nothing at padding."""
    import torch

    from latentpad.types import Batch

    width = PROMPT + tokens
    zeros = torch.zeros(rows, tokens)
    return Batch(
        token_ids=torch.randint(0, vocabulary, (rows, width)),
        attention_mask=torch.ones(rows, width, dtype=torch.int64),
        position_ids=torch.arange(width).expand(rows, width),
        response_mask=torch.ones(rows, tokens, dtype=torch.bool),
        rollout_logprobs=zeros,
        advantages=zeros,
        weights=zeros,
    )


def model_of(vocabulary: int, *, frozen: bool) -> Any:
    """With gradients allocated; `frozen` trains the layers' weights but not the head's, as under an adapter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=4096, **sizes))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not frozen or "layers" in name
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter) + 0  # touched, so that it is resident
    return model


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    """MiB now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(case: dict[str, Any]) -> dict[str, float]:
    """The one pass that this process is for."""
    import torch

    from latentpad.training import chunked_head
    from latentpad.training.forward import forward

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = model_of(case["vocabulary"], frozen=case["frozen"])

    def run(rows: int, tokens: int) -> float:
        batch = batch_of(rows, tokens, case["vocabulary"])
        started = time.process_time()
        out = forward(model, batch, temperature=0.9, entropy=case["entropy"])
        loss = out.logprobs.mean() if out.entropy is None else out.logprobs.mean() + out.entropy.mean()
        loss.backward()
        return time.process_time() - started

    if case["budget"] is not None:
        chunked_head.LOGIT_BYTES = case["budget"]
    run(1, 1)  # what is loaded at a first pass
    before = resident()
    seconds = run(case["rows"], case["tokens"])
    return {"mib": peak() - before, "seconds": seconds}


def repeated(case: dict[str, Any], repeats: int) -> str:
    """Median, and smallest to largest, of as many fresh processes."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(repeats)]
    parts = []
    for key, digits in (("mib", 0), ("seconds", 1)):
        found = [run[key] for run in runs]
        parts.append(f"{statistics.median(found):8.{digits}f} ({min(found):.{digits}f}-{max(found):.{digits}f})")
    return "   ".join(f"{part:24}" for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", type=json.loads, help="run this one and print it, for the parent process")
    arguments = parser.parse_args()
    if arguments.case is not None:
        say(json.dumps(measure(arguments.case)))
        return
    say(f"{'tokens':>6} {'vocab':>7} {'head':7} {'entropy':7} {'logits':7}  peak MiB                   CPU seconds")
    for rows, tokens, vocabulary, frozen, entropy in CASES:
        for name, budget in (("whole", 2**60), ("chunks", None)):
            case = {"rows": rows, "tokens": tokens, "vocabulary": vocabulary, "frozen": frozen, "entropy": entropy}
            line = repeated(case | {"budget": budget}, arguments.repeats)
            head = "frozen" if frozen else "trained"
            say(f"{rows * tokens:6} {vocabulary:7} {head:7} {entropy!s:7} {name:7}  {line}")


if __name__ == "__main__":
    main()
