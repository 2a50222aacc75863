"""Stands alone: what somebody without this project does with an exported folder. Reads texts (JSON), writes probabilities (JSON).

    python -I tests/load_exported.py pipeline|model|onnx FOLDER TEXTS.json PROBABILITIES.json

`pipeline` and `model` import transformers and torch alone, `onnx` onnxruntime, tokenizers and numpy alone; everything else is refused.
"""

import json
import sys

NEVER = {"pipeline": ["onnxruntime"], "model": ["onnxruntime"], "onnx": ["torch", "transformers"]}


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


if __name__ == "__main__":
    way, folder, source, target = sys.argv[1:]
    for name in ("ckd", "jobs", "cluster", *NEVER[way]):
        sys.modules[name] = None  # whoever imports it gets an ImportError
    with open(source) as file:
        texts = json.load(file)
    with open(target, "w") as file:
        json.dump({"pipeline": with_pipeline, "model": with_model, "onnx": with_onnx}[way](folder, texts), file)
