from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeprune.network.data import top1
from edgeprune.network.stand_in import FirstSamples, StandIn, samples_of


class Elsewhere:
    """Answers as a linear layer does, and remembers the shapes it was asked for."""

    def __init__(self):
        self.layer, self.shapes = nn.Linear(5, 3), []

    def __call__(self, samples):
        self.shapes += [sample[0].shape for sample in samples]
        with torch.no_grad():
            return [np.concatenate([self.layer(torch.from_numpy(sample[0])).numpy() for sample in samples])]


def test_any_batch_goes_through_inferences_of_one_size():
    elsewhere, inputs = Elsewhere(), torch.randn(7, 5)
    outputs = StandIn(elsewhere, batch=3)(inputs)
    torch.testing.assert_close(outputs, elsewhere.layer(inputs).detach())
    assert elsewhere.shapes == [(3, 5)] * 3


def test_a_metric_judges_it_like_a_network():
    elsewhere = Elsewhere()
    loader = [(torch.randn(4, 5), torch.tensor([0, 1, 2, 0])) for _ in range(3)]
    assert top1(StandIn(elsewhere, batch=1), loader) == top1(elsewhere.layer, loader)


def test_several_outputs_are_a_tuple():
    network = StandIn(lambda samples: [np.zeros((len(samples), 2)), np.ones((len(samples), 4))], batch=1)
    assert [tuple(part.shape) for part in network(torch.zeros(3, 1))] == [(3, 2), (3, 4)]


def test_the_first_samples_are_whole_batches():
    loader = [(torch.zeros(4, 1), torch.zeros(4)) for _ in range(5)]
    assert [len(targets) for _, targets in FirstSamples(loader, 6)] == [4, 4]
    assert len(list(FirstSamples(loader, 100))) == 5


def test_samples_that_fill_no_inference_are_left_out():
    assert [sample[0].shape for sample in samples_of((torch.zeros(7, 2),), 3)] == [(3, 2), (3, 2)]
