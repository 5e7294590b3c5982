"""Families of Hugging Face transformers: small random configurations, with the outputs that are used."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import zoo.vision  # noqa: F401  isort: skip  transformers imports torchvision where it finds it
import transformers as hf

ROWS, TOKENS, WORDS = 3, 16, 100
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 16, "use_cache": False}
IMAGE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Outputs(nn.Module):
    """A model that gives named outputs only: hidden states that nobody reads would keep their widths."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        found = self.model(**inputs)
        return {name: getattr(found, name) for name in self.names}


def tokens(length: int = TOKENS) -> Tensor:
    return torch.randint(5, WORDS, (ROWS, length))


def read() -> dict[str, Tensor]:
    """Token numbers and a mask that hides some of the last."""
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [TOKENS - 3], [TOKENS - 1]])
    return {"input_ids": tokens(), "attention_mask": mask.long()}


def classifier(kind: str, **options: Any) -> tuple[nn.Module, Any]:
    config = getattr(hf, f"{kind}Config")(**options)
    return Outputs(getattr(hf, f"{kind}ForSequenceClassification")(config), ("logits",)), read()


def language_model(kind: str, **options: Any) -> tuple[nn.Module, Any]:
    config = getattr(hf, f"{kind}Config")(**options)
    return Outputs(getattr(hf, f"{kind}ForCausalLM")(config), ("logits",)), {"input_ids": tokens()}


def image_classifier(kind: str, **options: Any) -> tuple[nn.Module, Any]:
    config = getattr(hf, f"{kind}Config")(**options)
    model = getattr(hf, f"{kind}ForImageClassification")(config)
    return Outputs(model, ("logits",)), {"pixel_values": torch.randn(ROWS, 3, 64, 64)}


def gpt2() -> tuple[nn.Module, Any]:
    config = hf.GPT2Config(vocab_size=WORDS, n_embd=64, n_layer=2, n_head=4, n_positions=64, use_cache=False)
    return Outputs(hf.GPT2LMHeadModel(config), ("logits",)), {"input_ids": tokens()}


def t5() -> tuple[nn.Module, Any]:
    config = hf.T5Config(vocab_size=WORDS, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False)
    model = Outputs(hf.T5ForConditionalGeneration(config), ("logits",))
    return model, {"input_ids": tokens(), "decoder_input_ids": tokens(8)}


def clip() -> tuple[nn.Module, Any]:
    config = hf.CLIPConfig(text_config=TEXT | SPECIAL, vision_config=IMAGE, projection_dim=32)
    model = Outputs(hf.CLIPModel(config), ("image_embeds", "text_embeds"))
    return model, {**read(), "pixel_values": torch.randn(ROWS, 3, 64, 64)}


def whisper() -> tuple[nn.Module, Any]:
    stack = {"layers": 2, "attention_heads": 4, "ffn_dim": 128}
    sizes = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in stack.items()}
    positions = {"max_source_positions": 32, "max_target_positions": 32, "decoder_start_token_id": 3}
    config = hf.WhisperConfig(
        vocab_size=WORDS, num_mel_bins=16, d_model=64, use_cache=False, **sizes, **positions, **SPECIAL
    )
    model = Outputs(hf.WhisperForConditionalGeneration(config), ("logits",))
    return model, {"input_features": torch.randn(ROWS, 16, 64), "decoder_input_ids": tokens(8)}


def wav2vec2() -> tuple[nn.Module, Any]:
    options = {key: value for key, value in TEXT.items() if key != "max_position_embeddings"} | {"vocab_size": 32}
    features = {"conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3)}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = hf.Wav2Vec2Config(**options, **features, **positions, num_feat_extract_layers=3)
    return Outputs(hf.Wav2Vec2ForCTC(config), ("logits",)), {"input_values": torch.randn(ROWS, 2000)}


def segformer() -> tuple[nn.Module, Any]:
    config = hf.SegformerConfig(
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 2, 3, 4],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=64,
        num_labels=10,
    )
    model = Outputs(hf.SegformerForSemanticSegmentation(config), ("logits",))
    return model, {"pixel_values": torch.randn(ROWS, 3, 64, 64)}


NETWORKS = {
    "bert": partial(classifier, "Bert", **TEXT),
    "distilbert": partial(classifier, "DistilBert", vocab_size=WORDS, dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    "roberta": partial(classifier, "Roberta", **TEXT),
    "gpt2": gpt2,
    "llama": partial(language_model, "Llama", **GROUPED),
    "qwen3": partial(language_model, "Qwen3", **GROUPED),
    "mistral": partial(language_model, "Mistral", **GROUPED),
    "gemma": partial(language_model, "Gemma", **GROUPED),
    "mixtral": partial(language_model, "Mixtral", **GROUPED, num_local_experts=4),
    "t5": t5,
    "vit": partial(image_classifier, "ViT", **IMAGE),
    "deit": partial(image_classifier, "DeiT", **IMAGE),
    "swin": partial(
        image_classifier,
        "Swin",
        image_size=64,
        patch_size=4,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "clip": clip,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "segformer": segformer,
}


def qwen3_8b() -> tuple[nn.Module, Any]:
    """Eight billion parameters on the meta device: shapes without numbers."""
    config = hf.Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=12288,
        use_cache=False,
    )
    with torch.device("meta"):
        model = Outputs(hf.Qwen3ForCausalLM(config), ("logits",))
        return model, {"input_ids": torch.zeros(ROWS, TOKENS, dtype=torch.long)}
