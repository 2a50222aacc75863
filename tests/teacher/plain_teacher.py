"""The teacher's forward pass as plainly as it can be written: the oracle of the engines' contract.

The whole causal model through transformers and PEFT, one prompt at a time, all hidden states.
"""

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ckd.teacher.tiny import TeacherSize, make_teacher

# vLLM's CPU attention knows no head smaller than 32: 128 / 4 heads.
SIZE = TeacherSize(hidden=128, vocabulary=600, phrases=100, rank=4, base_steps=0, adapter_steps=0)


def contract_teacher(folder):
    """<folder>/base and <folder>/adapter, untrained but random; returns the folder."""
    texts = [f"The patient-acquired disease is disease {i}, Heart failure. None." for i in range(50)]
    make_teacher(str(folder), texts, np.zeros((50, 25)), 0, SIZE)
    return str(folder)


class PlainTeacher:
    """Call it with prompts: float32 [n, hidden], the last hidden state at each prompt's last token."""

    def __init__(self, folder):
        base = AutoModelForCausalLM.from_pretrained(f"{folder}/base", dtype=torch.float32, attn_implementation="eager")
        self.model = PeftModel.from_pretrained(base, f"{folder}/adapter").eval()
        self.known = {}

    def __call__(self, prompts, adapter=True):
        return np.stack([self.states(prompt, adapter)[-1] for prompt in prompts])

    def states(self, prompt, adapter=True):
        """float32 [T, hidden] of one prompt."""
        key = (tuple(prompt), adapter)
        if key not in self.known:
            with torch.inference_mode():
                if adapter:
                    self.known[key] = self._forward(prompt)
                else:
                    with self.model.disable_adapter():
                        self.known[key] = self._forward(prompt)
        return self.known[key]

    def _forward(self, prompt):
        return (
            self.model(input_ids=torch.tensor([list(prompt)]), output_hidden_states=True).hidden_states[-1][0].numpy()
        )
