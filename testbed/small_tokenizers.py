"""Small tokenizers of the kinds that models bring: byte-level BPE (Qwen, Llama 3), and SentencePiece's (Llama 2)."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "Name the diseases.\nThe patient-acquired disease is Heart failure, Sepsis. None.",
    "user assistant system model INST [INST] [/INST] [ / ] You are a helpful assistant.\n\n",
    "The surgical operation performed by the patient: Hämodialyse. No. 4711. ASSISTANT: USER:",
] * 3


def byte_level(special, *, bos=""):
    """Byte-level BPE with these special tokens; with `bos` it adds that token to any text unless told not to."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(vocab_size=450, show_progress=False, special_tokens=special, initial_alphabet=alphabet),
    )
    return _wrapped(inner, special, bos)


def sentencepiece(special, scheme, *, bos=""):
    """A BPE over words that begin with ▁. `scheme`: first (Mistral 0.3), always, or legacy (Llama 2's normalizer)."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    inner.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=["<unk>", *special, *pieces])
    )
    if scheme == "legacy":  # no pre-tokenizer: merges stop at spaces because none was learned across one
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.pre_tokenizer = None
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrapped(inner, special, bos)


def _wrapped(inner, special, bos):
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos or None, eos_token=special[-1])
