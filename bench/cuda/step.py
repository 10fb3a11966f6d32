"""The training step as transformers and PEFT run it, on the model and adapter that the runner wrote: forward, cross-entropy, backward, fused AdamW."""
import os

import torch
import torch.nn.functional as F


def load(row, wide):
    """The vision transformer in bf16 with its LoRA adapter, in bf16 or in PEFT's default float32."""
    from peft import PeftModel
    from transformers import ViTForImageClassification
    folder = os.path.join(row["work"], "step")
    base = ViTForImageClassification.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, os.path.join(folder, "adapter"), is_trainable=True, autocast_adapter_dtype=wide)
    return model.to(row["results"]["logits"].device).train()


def step(wide=False, compile_it=False):
    def make(data, row):
        model = load(row, wide)
        trained = [p for p in model.parameters() if p.requires_grad]
        # Rate 0, as the runner's: every step starts from the same weights.
        optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.01, fused=row["cuda"], capturable=row["cuda"])
        labels = data["labels"].long()
        forward = torch.compile(model, dynamic=False) if compile_it and row["cuda"] else model

        def call():
            logits = forward(pixel_values=data["images"]).logits
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return {"loss": loss.detach().reshape(1), "logits": logits.detach()}
        return call
    return make


def ways(way):
    return [
        way("PEFT eager", step(), captured=False),
        way("PEFT eager, captured", step()),
        way("PEFT eager, float32 adapters", step(wide=True), captured=False),
        way("PEFT compiled", step(compile_it=True), captured=False),
    ]
