"""Batch normalisation alone; over several processes it is in `training/test_distributed.py`."""

import torch
from torch import nn

from plainunet.network.unet import UNet
from plainunet.training.distributed import SynchronisedBatchNorm, synchronise


def test_names_weights_and_results_stay() -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, base_channels=4, depth=2)
    image = torch.rand(2, 3, 16, 24)
    before = network.train()(image)
    names = list(network.state_dict())
    weights = [id(weight) for weight in network.parameters()]
    synchronise(network)
    assert list(network.state_dict()) == names
    assert [id(weight) for weight in network.parameters()] == weights
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert kinds == {SynchronisedBatchNorm}
    # alone, it is what it was
    torch.testing.assert_close(network(image), before)


def test_over_one_process_it_is_batch_normalisation(tmp_path: object) -> None:
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/meet"
    )
    try:
        torch.manual_seed(0)
        own, usual = SynchronisedBatchNorm(5), nn.BatchNorm2d(5)
        with torch.no_grad():
            for module in (own, usual):
                module.weight.copy_(torch.linspace(-1, 2, 5))
                module.bias.copy_(torch.linspace(0, 1, 5))
        feature = 3 + 2 * torch.randn(3, 5, 7, 9)
        results = []
        for module in (own, usual):
            given = feature.clone().requires_grad_()
            made = module(given)
            (made * torch.linspace(0, 1, 9)).square().sum().backward()
            results.append(
                [made, given.grad, module.weight.grad, module.bias.grad, *module.buffers()]
            )
        for mine, expected in zip(*results, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
        half = own(feature.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(
            own.eval()(feature),
            nn.functional.batch_norm(
                feature, own.running_mean, own.running_var, own.weight, own.bias, eps=own.eps
            ),
        )
    finally:
        torch.distributed.destroy_process_group()
