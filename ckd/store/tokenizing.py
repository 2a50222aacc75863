"""Which files of a model folder tokenizing reads: all that are not known to be something else.

A list of the tokenizers' files would miss the next kind (sentencepiece.bpe.model, bpe.codes, *.tiktoken, …); a file
that is none of them costs at most a refusal that names it.
"""

NOT_READ = (  # in the patterns of fnmatch and of the Hub
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data"),
    *("*.gguf", "*.ggml", "*.tflite", "*.mlmodel", "*.pkl", "*.npz", "*.nemo", "*.llamafile", "*.zip", "*.tar", "*.gz"),
    *(".*", "README*", "*.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*.pdf", "*.py", "*.log", "*.jsonl"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.mp4"),
    *("optimizer*", "scheduler*", "rng_state*", "random_states*", "trainer_state.json", "events.out.tfevents*"),
    *("all_results.json", "train_results.json", "eval_results.json", "training_args*"),
)
