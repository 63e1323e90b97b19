"""Train MicroCLIP on the images of Tiny-ImageNet-200 and captions made of the names of their classes.

    python -m zoo.train_clip --data tiny-imagenet-200.zip              # train, then evaluate
    python -m zoo.train_clip --data tiny-imagenet-200.zip --evaluate   # recompute the table and compare

A caption is one of CLIP's 80 prompt templates around one of WordNet's names of the class; half of them, drawn by
chance, go on with WordNet's definition; what exceeds 32 tokens is cut off. 180 classes are trained, twenty are
held out (:func:`zoo.clip.held_out`). Training resumes from the checkpoint of the last finished epoch, on one
device. It leaves the weights (``data/zoo/clip.safetensors``), the learning curve (``clip.csv``) and the accuracies
on the official validation images (``clip_results.csv``). Needs ``requirements-train.txt``.
"""

from __future__ import annotations

import argparse
import gzip
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

import utils  # noqa: F401  makes torchvision, which open_clip imports, work beside a CPU-only torch

# isort: split
import open_clip
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from zoo import WEIGHTS
from zoo.clip import MERGES, NAME, TEMPLATES, definition_of, encode_text, held_out, load, names_of, tokenizer
from zoo.tables import read_csv, write_csv
from zoo.tiny_imagenet import add_data_argument, device_name, load_for_command, normalize
from zoo.train import CHECKPOINTS, Recipe, augment, build_optimizer, launch, learning_rate_at, resume, save, ship

RECIPE = Recipe("adamw", 1e-3, epochs=10, small_epochs=0, label_smoothing=0.0)
NUM_MERGES = 4000

# The three ways of asking about a class that are compared; each gives the texts whose mean embedding stands for it.
PROMPTS = {
    "one prompt": lambda wnid: [f"a photo of a {names_of(wnid)[0]}."],
    "80 templates": lambda wnid: [template(names_of(wnid)[0]) for template in TEMPLATES],
    "name and definition": lambda wnid: [f"a photo of a {names_of(wnid)[0]}, {definition_of(wnid)}."],
}


def write_merges() -> None:
    """Write the first merges of CLIP's own tokenizer: they were learned in the order of their frequency."""
    with gzip.open(open_clip.tokenizer.default_bpe()) as file:
        lines = file.read().decode().split("\n")[: NUM_MERGES + 1]  # the first line is a header
    MERGES.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def caption(wnid: str, chance: random.Random) -> str:
    """Return a caption for an image of class `wnid`: a random template around a random name, maybe the definition."""
    text = chance.choice(TEMPLATES)(chance.choice(names_of(wnid))).removesuffix(".")
    return f"{text}, {definition_of(wnid)}." if chance.random() < 0.5 else f"{text}."


class Pairs(nn.Module):
    """Both towers: images ``(N, 3, 64, 64)`` and tokens ``(N, 32)`` to unit vectors and the inverse temperature."""

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image_features = self.clip.encode_image(images, normalize=True).float()
        text_features = F.normalize(encode_text(self.clip, tokens).float(), dim=1)
        return image_features, text_features, self.clip.logit_scale.exp()


@torch.inference_mode()
def image_features(clip: open_clip.CLIP, images: Tensor) -> Tensor:
    """Return the embeddings ``(N, D)`` of uint8 images ``(N, 3, 64, 64)``, not normalized."""
    return torch.cat([clip.encode_image(normalize(batch)) for batch in images.split(250)])


@torch.inference_mode()
def class_features(clip: open_clip.CLIP, wnids: list[str], prompts: str, device: torch.device) -> Tensor:
    """Return the unit vectors ``(K, D)`` that stand for the classes `wnids`: the means of their texts' embeddings."""
    tokens = tokenizer()([text for wnid in wnids for text in PROMPTS[prompts](wnid)])
    texts = torch.cat([F.normalize(encode_text(clip, batch.to(device)), dim=1) for batch in tokens.split(200)])
    return F.normalize(texts.view(len(wnids), -1, texts.shape[1]).mean(1), dim=1)


def zero_shot_accuracy(images: Tensor, classes: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent of choosing the class whose vector is nearest to the image's."""
    return 100 * ((images @ classes.T).argmax(1) == labels).float().mean().item()


def select(data: tuple[Tensor, Tensor], classes: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the images of the classes where the bool tensor `classes` is true, and number those classes anew."""
    images, labels = data
    keep = classes[labels]
    return images[keep], (classes.cumsum(0) - 1)[labels[keep]]


def train(fabric: Fabric, data: dict, recipe: Recipe, checkpoint: Path) -> tuple[open_clip.CLIP, list[dict]]:
    """Train MicroCLIP and return it with its history, one dict an epoch.

    A batch holds one image of each of as many different classes, so that every other caption in it is really wrong.
    """
    unseen = torch.tensor(held_out(data["wnids"]))
    wnids = [wnid for wnid, out in zip(data["wnids"], unseen.tolist(), strict=True) if not out]
    images, labels = select(data["train"], ~unseen)
    val_images, val_labels = (tensor.to(fabric.device) for tensor in select(data["val"], ~unseen))
    images_of = [torch.nonzero(labels == k).flatten() for k in range(len(wnids))]
    images = images.to(fabric.device)
    tokenize, loss_function = tokenizer(), open_clip.ClipLoss()

    torch.manual_seed(recipe.seed)
    clip = open_clip.CLIP(**open_clip.get_model_config(NAME)).to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(Pairs(clip), build_optimizer(clip, recipe))
    steps = len(images) // recipe.batch_size
    state = {"model": model, "optimizer": optimizer, "recipe": asdict(recipe), "history": []}
    state |= {"network": str(clip), "images": [len(images), len(val_images)]}
    resume(fabric, NAME, checkpoint, state)

    for epoch in range(len(state["history"]), recipe.epochs):
        start = time.perf_counter()
        # One generator an epoch: a resumed run draws what an uninterrupted one would have drawn.
        generator = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
        chance = random.Random(1000 * recipe.seed + epoch)
        model.train()
        total_loss = 0.0
        for step in tqdm(range(steps), desc=f"{NAME} {epoch + 1}/{recipe.epochs}", leave=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(epoch + step / steps, recipe)
            classes = torch.randperm(len(wnids), generator=generator)[: recipe.batch_size].tolist()
            picks = torch.randint(2**31, (len(classes),), generator=generator).tolist()
            batch = torch.stack(
                [images_of[k][pick % len(images_of[k])] for k, pick in zip(classes, picks, strict=True)]
            )
            tokens = tokenize([caption(wnids[k], chance) for k in classes]).to(fabric.device)
            x = augment(normalize(images[batch.to(fabric.device)]), images.shape[-1], recipe.crop_area, generator)
            loss = loss_function(*model(x.contiguous(memory_format=torch.channels_last), tokens))
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            with torch.no_grad():
                clip.logit_scale.clamp_(max=4.6052)  # the paper's limit: logits scaled by at most 100
            total_loss += loss.item()
        seconds = time.perf_counter() - start
        clip.eval()
        asked = class_features(clip, wnids, "one prompt", fabric.device)
        row = {
            "epoch": epoch + 1,
            "train_loss": round(total_loss / steps, 4),
            "val_top1": round(zero_shot_accuracy(image_features(clip, val_images), asked, val_labels), 2),
            "logit_scale": round(clip.logit_scale.exp().item(), 2),
            "seconds": round(seconds, 1),
        }
        state["history"].append(row)
        fabric.print(NAME, row)
        save(fabric, checkpoint, state)
    return clip, state["history"]


def evaluate(device: torch.device, data: dict) -> list[dict]:
    """Return the accuracies of the shipped MicroCLIP: on trained and on held-out classes, by each way of asking.

    Last come the held-out classes one by one: they are so far apart that their mean says little.
    """
    clip, _, about = load()
    clip.to(device)
    unseen = torch.tensor([wnid in about["held_out"] for wnid in data["wnids"]])
    groups = {"trained": ~unseen, "held out": unseen, "all": torch.ones_like(unseen)}
    groups |= {wnid: torch.tensor([wnid == other for other in data["wnids"]]) for wnid in about["held_out"]}
    # Each image and each text is encoded once, however often it is compared.
    features, labels = image_features(clip, data["val"][0].to(device)).cpu(), data["val"][1]
    asked = {prompts: class_features(clip, data["wnids"], prompts, device).cpu() for prompts in PROMPTS}
    pairs = (("trained", "trained"), ("held out", "held out"), ("held out", "all"))
    questions = [(*pair, prompts) for pair in pairs for prompts in PROMPTS]
    questions += [(wnid, "held out", "one prompt") for wnid in about["held_out"]]
    rows = []
    for images, candidates, prompts in questions:
        shown, offered = groups[images][labels], groups[candidates]
        right = (offered.cumsum(0) - 1)[labels[shown]]
        top1 = round(zero_shot_accuracy(features[shown], asked[prompts][offered], right), 2)
        chance = round(100 / int(offered.sum()), 2)
        rows.append(
            {"images": images, "candidates": candidates, "prompts": prompts, "count": len(right)}
            | {"top1": top1, "chance": chance}
        )
        print(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo.train_clip", description="Train MicroCLIP.")
    add_data_argument(parser)
    parser.add_argument("--evaluate", action="store_true", help="only recompute the table of accuracies and compare")
    arguments = parser.parse_args()

    fabric = launch()
    if fabric.world_size > 1:
        sys.exit(
            "MicroCLIP is trained by one process, as its loss compares all pairs of a batch: start it without torchrun."
        )
    results = WEIGHTS / "clip_results.csv"
    data = load_for_command(arguments.data, ("val",) if arguments.evaluate else ("train", "val"))
    if not arguments.evaluate:
        write_merges()
        clip, history = train(fabric, data, RECIPE, CHECKPOINTS / "clip.ckpt")
        about = {
            "wnids": data["wnids"],
            "held_out": [wnid for wnid, out in zip(data["wnids"], held_out(data["wnids"]), strict=True) if out],
            "recipe": asdict(RECIPE),
            "train_seconds": sum(row["seconds"] for row in history),
            "device": device_name(fabric.device),
        }
        ship(WEIGHTS / "clip.safetensors", clip.state_dict(), about)
        write_csv(WEIGHTS / "clip.csv", history)
        write_csv(results, evaluate(fabric.device, data))
        return
    recorded = {(row["images"], row["candidates"], row["prompts"]): float(row["top1"]) for row in read_csv(results)}
    wrong = [
        row
        for row in evaluate(fabric.device, data)
        if abs(row["top1"] - recorded.get((row["images"], row["candidates"], row["prompts"]), 1e9)) > 0.1
    ]
    if wrong:
        sys.exit(f"{len(wrong)} rows differ from {results.name}: {wrong}. To write it anew, train without --evaluate.")
    print(f"{results.name} is right.")


if __name__ == "__main__":
    main()
