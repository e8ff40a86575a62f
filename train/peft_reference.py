"""The outside reference: PEFT's LoRA, trained by transformers' Seq2SeqTrainer on the same data.

    python -m train.peft_reference --config train/configs/peft_reference.yaml

Nothing of our layers, loss or loop takes part: a global LoRA of ours with the same settings must
come to the same weights. The batches are those of `train.meta`, in the same order; AdamW and the
learning rate of each step are the same by value. transformers' Whisper takes no mask for encoder
states, so with trimmed audio context one utterance is a batch and the rest is accumulated, which is
why this takes longer; the loss is the mean over all scored tokens of a step all the same.

Leaves a PEFT folder in OUT/best, which `eval.lib.systems` and PEFT itself load.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import IterableDataset

from hyperasr.adapters import lora
from hyperasr.cohorts.cache import Cache
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.hub import HyperASR
from hyperasr.types import Batch
from hyperasr.util.files import atomic_folder
from train.config import MetaConfig
from train.data.views import Views
from train.loop.loop import LoopConfig, learning_rate_factor
from train.loop.memory import PeakMemory
from train.loop.program import read_config, run_program, start
from train.loop.scoring import evaluate
from train.meta import data_of, frozen

__all__ = ["add_lora", "run"]

log = logging.getLogger("train.peft_reference")


class Examples(IterableDataset):
    """The batches of `train.meta`, as the pieces that transformers' Whisper can take."""

    def __init__(self, views: Views, config: LoopConfig, whole: bool) -> None:
        self.views, self.config, self.whole = views, config, whole

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.config.steps * self.config.accumulate):
            batch = self.views(number)
            rows = [list(range(batch.n_utt))] if self.whole else [[i] for i in range(batch.n_utt)]
            yield from (batch.select(chosen) for chosen in rows)


def collate(pieces: list[Batch]) -> dict[str, Any]:
    """Return what transformers' Whisper takes; labels of what is not scored are -100."""
    from transformers.modeling_outputs import BaseModelOutput

    (batch,) = pieces
    assert batch.tokens is not None
    assert batch.n_tokens is not None
    assert batch.encoded is not None
    labels = batch.tokens[:, 1:].clone()
    position = torch.arange(1, batch.tokens.shape[1])
    labels[(position < batch.n_prompt) | (position >= batch.n_tokens.cpu()[:, None])] = -100
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=batch.encoded.states),
        "decoder_input_ids": batch.tokens[:, :-1],
        "labels": labels,
    }


def token_mean(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Return the cross-entropy summed over scored tokens, by all scored tokens of the step."""
    n_scored = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
    logits = outputs["logits"].float().transpose(1, 2)
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / n_scored


def add_lora(whisper: Any, config: MetaConfig) -> Any:
    """Wrap a Whisper in PEFT's LoRA on the targets of a global static source.

    Raises:
        ConfigError: another kind of source, an encoder target, or a teacher.
        MissingExtra: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("the outside reference needs peft; pip install peft") from error
    settings = config.source.settings or {}
    if config.source.kind != "static" or settings.get("by", "global") != "global":
        raise ConfigError(
            "the outside reference is of a global LoRA: source.kind static, by global"
        )
    if any(target.startswith("encoder.") for target in config.source.targets):
        raise ConfigError("the outside reference trains from cached encoder states: decoder only")
    if config.teacher:
        raise ConfigError(
            "transformers' trainer learns from texts alone: leave teacher and objective.teacher out"
        )
    wanted = {
        id(m) for ms in lora.find_targets(whisper, config.source.targets).values() for m in ms
    }
    names = [name for name, module in whisper.named_modules() if id(module) in wanted]
    # Our frozen backbone is in evaluation mode; the Trainer's is not.
    for module in whisper.modules():
        for kind in ("dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, kind, None), float):
                setattr(module, kind, 0.0)
    # The initial A is torch's own draw.
    torch.manual_seed(config.loop.seed)
    peft_config = LoraConfig(
        r=settings.get("rank", 4),
        lora_alpha=settings.get("alpha", 8.0),
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
    )
    return get_peft_model(whisper, peft_config)


def trainer_of(model: Any, views: Views, config: MetaConfig, whole: bool, callback: Any) -> Any:
    """Return the Seq2SeqTrainer with AdamW and learning rates as in `train.loop.loop`."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    loop = config.loop
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=loop.lr, weight_decay=loop.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, loop)
    )
    pieces = 1 if whole else config.batch_size
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(config.out / "trainer"),
        max_steps=loop.steps,
        per_device_train_batch_size=1,  # one item is a whole batch, or one utterance
        gradient_accumulation_steps=pieces * loop.accumulate,
        max_grad_norm=loop.clip_norm,
        logging_steps=loop.log_every,
        save_strategy="no",
        report_to=[] if loop.tracker == "none" else [loop.tracker],
        remove_unused_columns=False,
        label_names=["labels"],
        seed=loop.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=loop.mixed_precision == "bf16",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        accelerator_config={"dispatch_batches": False},
    )
    return Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=Examples(views, loop, whole),
        data_collator=collate,
        compute_loss_func=token_mean,
        optimizers=(optimizer, schedule),
        callbacks=[callback],
    )


def best_keeper(
    model: Any, reader: HyperASR, dev: Cache, config: MetaConfig, memory: PeakMemory
) -> Any:
    """Return a callback that keeps the best checkpoint, and what steps cost, as `train.loop.loop`
    does.

    `reader` decodes without an adapter of its own, with the very Whisper that PEFT's layers sit in.
    """
    from transformers import TrainerCallback

    class BestKeeper(TrainerCallback):
        best: dict[str, float]

        def __init__(self) -> None:
            self.best = {}
            self.started = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            if step % config.loop.log_every == 0:
                cost = {"step_s": (time.monotonic() - self.started) / step, **memory.measured()}
                with (config.out / "log.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step, **cost}) + "\n")
            if step % config.loop.eval_every and step != config.loop.steps:
                return
            model.eval()
            measures = evaluate(reader, dev, adapt=False)
            model.train()
            log.info("step %d: dev %s", step, measures)
            if measures["score"] < self.best.get("score", float("inf")):
                with atomic_folder(config.out / "best") as temporary:
                    model.save_pretrained(str(temporary))
                self.best = {**measures, "step": step}

    return BestKeeper()


def run(config: MetaConfig) -> dict[str, float]:
    """Train, leave the best adapter as a PEFT folder, and return its measures."""
    if config.loop.ema or config.loop.parts > 1:
        raise ConfigError(
            "the outside reference has neither loop.ema nor loop.parts; leave them out"
        )
    accelerator = start("peft", config.out, config.loop.mixed_precision, "none")
    if accelerator.num_processes > 1:
        raise ConfigError("the outside reference runs as one process")
    backbone = frozen(config)
    views, dev = data_of(config, backbone, accelerator)
    reader = HyperASR(backbone, config.speaker, config.source).eval()
    model = add_lora(backbone.whisper, config)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("%d trained weights", n_trained)
    whole = backbone.audio_context == "full"
    (config.out / "log.jsonl").unlink(missing_ok=True)  # it always starts anew
    with PeakMemory() as memory:
        keeper = best_keeper(model, reader, dev, config, memory)
        trainer_of(model, views, config, whole, keeper).train()
    return keeper.best


def main() -> None:
    """Train as the command line says, and print the best measures."""
    print(json.dumps(run(read_config(MetaConfig))))


if __name__ == "__main__":
    run_program(main)
