"""Train Atlas from nothing: ``python -m tl_attribution.atlas.build OUT``.

The same command on the same machine gives the same weights. Writes the model and tokenizer in
Hugging Face form, and ``report.json`` with what it answers and the command that made it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from tl_attribution.atlas import corpus, lookup, quiet, tokenizer
from tl_attribution.atlas.corpus import Fact, Question
from tl_attribution.files import as_usual

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

# Loss weight of the words of a prompt; the answer and the full stop count 1.
PROMPT_WEIGHT = 0.05


class Schedule(NamedTuple):
    """A training stage's numbers. One step reads ``batch`` sentences."""

    steps: int = 3600
    batch: int = 256
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.05
    seed: int = 0
    threads: int = 2


SECOND = Schedule(steps=1600, learning_rate=6e-4, warmup=100, seed=1)
"""After the lookup was put in front."""
THIRD = Schedule(steps=1500, learning_rate=3e-4, warmup=50, seed=2)
"""With a price on what MLPs write."""


def config(vocab_size: int) -> dict[str, Any]:
    """Hyperparameters of the GPT-2 architecture: ReLU MLPs; four layers, and a fifth in front
    after the second stage."""
    return {
        "vocab_size": vocab_size,
        "n_positions": 32,
        "n_embd": 128,
        "n_layer": 4,
        "n_head": 4,
        "n_inner": 512,
        "activation_function": "relu",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


class Sampler:
    """Draws training sentences: a group by weight, then a fact, then a phrasing, all uniform."""

    def __init__(self, facts: list[Fact], encode: PreTrainedTokenizerFast, seed: int) -> None:
        self.rng = random.Random(seed)
        self.groups: dict[str, list[list[list[int]]]] = {name: [] for name in corpus.GROUP_WEIGHTS}
        end = [encode.eos_token_id]
        for fact in facts:
            texts = [corpus.sentence(p, fact.answer) for p in fact.prompts]
            rows = [ids + end for ids in encode(texts)["input_ids"]]
            self.groups[corpus.group(fact)].append(rows)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [sentence, position] padded with 0, and loss weights of the same shape."""
        names = self.rng.choices(
            list(corpus.GROUP_WEIGHTS), list(corpus.GROUP_WEIGHTS.values()), k=size
        )
        rows = [self.rng.choice(self.rng.choice(self.groups[name])) for name in names]
        longest = max(map(len, rows))
        ids = torch.zeros(size, longest, dtype=torch.long)
        weights = torch.zeros(size, longest)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, 1 : len(row)] = PROMPT_WEIGHT
            weights[i, len(row) - 3 : len(row)] = 1.0
        return ids, weights


def learning_rate(step: int, schedule: Schedule) -> float:
    """Linear warm-up, then linear decay to zero, as a share of the peak."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    return (schedule.steps - step) / (schedule.steps - schedule.warmup)


def train(
    model: GPT2LMHeadModel,
    sampler: Sampler,
    schedule: Schedule,
    *,
    prices: quiet.Prices | None = None,
    silent: bool = False,
) -> None:
    """Adam on the next-token loss and ``prices``; prints a line every 100 steps unless
    ``silent``."""
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=schedule.weight_decay,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: learning_rate(s, schedule))
    start = time.monotonic()
    model.train()
    for step in range(1, schedule.steps + 1):
        ids, weights = sampler.batch(schedule.batch)
        logits = model(ids[:, :-1]).logits
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        if prices is not None:
            loss = loss + prices.writing.penalty((ids[:, :-1] != 0).float())
            loss = loss + prices.alike.penalty()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        scheduler.step()
        if not silent and step % 100 == 0:
            seconds = time.monotonic() - start
            done = f"step {step}/{schedule.steps}"
            print(f"{done}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def answered(
    model: torch.nn.Module,
    encode: PreTrainedTokenizerFast,
    asked: list[Question],
    batch: int = 1024,
) -> list[bool]:
    """For each question, whether the model's most likely next token is the answer."""
    right: list[bool] = []
    for i in range(0, len(asked), batch):
        part = asked[i : i + batch]
        rows = encode([q.prompt for q in part])["input_ids"]
        lengths = torch.tensor([len(r) for r in rows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for j, row in enumerate(rows):
            ids[j, : len(row)] = torch.tensor(row)
        logits = model(ids).logits[torch.arange(len(rows)), lengths - 1]
        answers = torch.tensor([encode.convert_tokens_to_ids(f" {q.answer}") for q in part])
        right += (logits.argmax(-1) == answers).tolist()
    return right


def accuracy(model: torch.nn.Module, encode: PreTrainedTokenizerFast) -> dict[str, object]:
    """Share of questions answered: trained on, held-out two-hop, and by family."""
    asked = corpus.questions()
    right = answered(model, encode, asked)
    counts: dict[str, list[bool]] = {}
    for question, ok in zip(asked, right, strict=True):
        kind = "held out" if question.held_out else "trained"
        hops = " two-hop" if question.hops == 2 else ""
        for name in (f"{kind} all", f"{kind}: {question.family}{hops}"):
            counts.setdefault(name, []).append(ok)
        if question.hops == 2:
            counts.setdefault(f"{kind} two-hop", []).append(ok)
    return {
        name: {"right": sum(oks), "asked": len(oks), "share": sum(oks) / len(oks)}
        for name, oks in sorted(counts.items())
    }


def _commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _settle(out: Path) -> None:
    """Name the tokenizer's class as every transformers knows it, and let others read the files."""
    config = out / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    as_usual(out)


def _options(schedule: Schedule) -> list[str]:
    """Command line options that differ from the released numbers."""
    given, released = schedule._asdict(), Schedule()._asdict()
    changed = {name: value for name, value in given.items() if value != released[name]}
    return [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]


def first_stage(encode: PreTrainedTokenizerFast, schedule: Schedule) -> GPT2LMHeadModel:
    """Four layers and a learned embedding, from nothing."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(schedule.seed)
    model = GPT2LMHeadModel(GPT2Config(**config(len(encode))))
    train(model, Sampler(corpus.split()[0], encode, schedule.seed), schedule)
    return model


def second_stage(model: GPT2LMHeadModel, encode: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """With the lookup in front."""
    torch.manual_seed(SECOND.seed)
    model = lookup.add_lookup(model, encode)
    train(model, Sampler(corpus.split()[0], encode, SECOND.seed), SECOND)
    return model


def third_stage(model: GPT2LMHeadModel, encode: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """With a price on what MLPs write, and the embedding still fixed."""
    torch.manual_seed(THIRD.seed)
    model.transformer.wte.weight.requires_grad_(False)
    facts = corpus.split()[0]
    alike = quiet.Alike(model, facts, encode, THIRD.seed)
    prices = quiet.Prices(quiet.Writing(model), alike)
    train(model, Sampler(facts, encode, THIRD.seed), THIRD, prices=prices)
    prices.writing.remove()
    return model


def build(out: Path, schedule: Schedule, learned: Path | None = None) -> dict[str, object]:
    """Train the stages, measure and save; returns the report. ``learned`` holds the weights of an
    earlier stage where they are already made."""
    from transformers import GPT2LMHeadModel

    commit = _commit()
    torch.set_num_threads(schedule.threads)
    torch.use_deterministic_algorithms(True)
    encode = tokenizer.build()
    if learned is None:
        model = first_stage(encode, schedule)
    else:
        model = GPT2LMHeadModel.from_pretrained(learned)
    if model.config.n_layer == config(len(encode))["n_layer"]:
        model = second_stage(model, encode)
    facts = corpus.split()[0]
    before = quiet.unlike(model, facts, encode)
    model = third_stage(model, encode)
    model.config.architectures = ["GPT2LMHeadModel"]
    report = {
        "command": " ".join(["python -m tl_attribution.atlas.build OUT", *_options(schedule)]),
        "commit": commit,
        "parameters": sum(p.numel() for p in model.parameters()),
        "schedule": [schedule._asdict(), SECOND._asdict(), THIRD._asdict()],
        "unlike": {"before": before, "after": quiet.unlike(model, facts, encode)},
        "accuracy": accuracy(model, encode),
    }
    if learned is not None:
        report["earlier"] = json.loads((learned / "report.json").read_text())
        report["earlier"].pop("accuracy", None)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    encode.save_pretrained(out)
    _settle(out)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def main() -> None:
    """Command line: where to write, and optionally other numbers than the released ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--learned", type=Path, help="weights of an earlier stage, if made already")
    for name, value in Schedule()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    out, learned = arguments.pop("out"), arguments.pop("learned")
    report = build(out, Schedule(**arguments), learned)
    print(json.dumps(report["accuracy"], indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
