"""Stands alone: what somebody without this project does with an exported folder.

Reads texts (JSON), writes probabilities (JSON).

    python -I tests/predict/load_exported.py transformers|onnx FOLDER TEXTS.json PROBABILITIES.json

`transformers` (a pipeline, and the model itself) imports nothing but transformers and torch, `onnx` nothing but
onnxruntime, tokenizers and numpy.
"""

import json
import sys

NEVER = {"transformers": ["onnxruntime"], "onnx": ["torch", "transformers"]}


def with_pipeline(folder, texts):
    from transformers import pipeline

    classify = pipeline("text-classification", model=folder, top_k=None, truncation=True, function_to_apply="sigmoid")
    names = [name for _, name in sorted(classify.model.config.id2label.items())]
    return [[{row["label"]: row["score"] for row in rows}[name] for name in names] for rows in classify(texts)]


def with_model(folder, texts):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        return model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits.sigmoid().tolist()


def with_onnx(folder, texts):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    found = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        logits = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        found.append((1 / (1 + np.exp(-logits.astype(float)))).tolist())
    return found


WAYS = {"transformers": {"pipeline": with_pipeline, "model": with_model}, "onnx": {"onnx": with_onnx}}

if __name__ == "__main__":
    way, folder, source, target = sys.argv[1:]
    for name in ("ckd", "jobs", "cluster", *NEVER[way]):
        sys.modules[name] = None  # whoever imports it gets an ImportError
    with open(source) as file:
        texts = json.load(file)
    with open(target, "w") as file:
        json.dump({name: ask(folder, texts) for name, ask in WAYS[way].items()}, file)
