"""`oracle_observed`: how well the next recorded labels can be predicted from recorded codes only, by a network
fitted on other patients. The ceiling on the full hidden state is `Encounters.probability`."""

from typing import TYPE_CHECKING

import numpy as np

from ckd.ehr.synthetic.patients import Encounters, generate, parameters
from ckd.visits.labels import NUM_LABELS

if TYPE_CHECKING:
    import torch

HIDDEN, EPOCHS, BATCH, PEAK_STEP = 192, 8, 512, 4e-3


def features(encounters: Encounters) -> np.ndarray:
    """What coders recorded of each visit, float32 [V, C + G + P + 1].
    Conditions, drugs, procedures, age in tens of years around the mean."""
    age = (encounters.age[:, None] - parameters().raw["ages"]["mean"]) / 10
    return np.hstack([encounters.recorded, encounters.given, encounters.done, age]).astype(np.float32)


def fit(encounters: Encounters, seed: int) -> "torch.nn.Module":
    """A network from `features` to 25 logits, fitted on every visit that has a next one.

    Its targets are the true probabilities: given the codes they have the mean of the recorded labels, and less noise.
    """
    import torch

    rows = np.flatnonzero(encounters.has_next)
    x_NF, p_NL = torch.from_numpy(features(encounters)[rows]), torch.from_numpy(encounters.probability[rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        into, out = torch.nn.Linear(x_NF.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, NUM_LABELS)
        net = torch.nn.Sequential(into, torch.nn.GELU(), out)
        steps = EPOCHS * -(-len(rows) // BATCH)
        optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_STEP, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_STEP, total_steps=steps)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows)).split(BATCH):
                optimizer.zero_grad()
                torch.nn.functional.binary_cross_entropy_with_logits(net(x_NF[batch]), p_NL[batch]).backward()
                optimizer.step()
                schedule.step()
    return net.eval()


def oracle_observed(encounters: Encounters, patients: int, seed: int) -> np.ndarray:
    """Probabilities of the next recorded labels from codes, float32 [V, 25].
    Fitted on `patients` patients of generator seed `seed`. Raises ValueError when that is the encounters' own."""
    import torch

    if seed == encounters.seed:
        raise ValueError(f"the ceiling must be fitted on other patients than seed {seed}")
    net = fit(generate(patients, seed), seed)
    with torch.inference_mode():
        probabilities: np.ndarray = net(torch.from_numpy(features(encounters))).sigmoid().numpy()
    return probabilities
