"""Which files of a model folder tokenizing reads: all that are not known to be something else.

A list of the tokenizers' files would miss the next kind (sentencepiece.bpe.model, bpe.codes, *.tiktoken, …); a file
that is none of them costs at most a refusal that names it.
"""

import json
from fnmatch import fnmatch

from ckd.store.files import digest, join, read_bytes
from ckd.store.hashes import folder_hash

NOT_READ = (  # in the patterns of fnmatch and of the Hub
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data"),
    *("*.gguf", "*.ggml", "*.tflite", "*.mlmodel", "*.pkl", "*.npz", "*.nemo", "*.llamafile", "*.zip", "*.tar", "*.gz"),
    *(".*", "README*", "*.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*.pdf", "*.py", "*.log", "*.jsonl"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.mp4"),
    *("optimizer*", "scheduler*", "rng_state*", "random_states*", "trainer_state.json", "events.out.tfevents*"),
    *("all_results.json", "train_results.json", "eval_results.json", "training_args*"),
)
_OF_WEIGHTS = ("config.json", "*.index.json", "generation_config.json", "adapter_*")
_CHOOSING = ("model_type", "tokenizer_class", "transformers_version")  # what of config.json chooses how to tokenize


def decides_tokens(file: str) -> bool:
    """Whether a file of a model's folder, by its relative name, may change tokens."""
    return not any(fnmatch(file, pattern) for pattern in (*NOT_READ, *_OF_WEIGHTS))


def tokenizer_hash(folder: str) -> str:
    """A hash of every file that tokenizing reads in the folder of a model or an adapter, local or at a URL."""
    return digest([folder_hash(folder, decides_tokens), _chosen(folder)])


def _chosen(folder: str) -> dict[str, object]:
    try:
        settings = json.loads(read_bytes(join(folder, "config.json")))
        return {name: settings.get(name) for name in _CHOOSING}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}
